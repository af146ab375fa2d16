"""The design of a study: arms, data sets, detectors, label budgets, seeds, folds, and what was expected beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from medpretrain3d.evaluation.named_metrics import MAP, NamedMetric
from medpretrain3d.statistics import MIN_DATA_SETS, Hypothesis
from medpretrain3d.statistics.hypotheses import Side

ALL = "all"
KINDS = ("prepare", "pretrain", "finetune")
NUM_FOLDS = 5
"""Of a store that is not there yet: what `medpretrain3d prepare` and `split` deal out."""


@dataclass(frozen=True)
class Arm:
    """One way to begin: from scratch where it names nothing."""

    name: str
    pretrain: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Recipes of stage 1 of each data set, each from the encoder of the one before; the arm is not run on the others.
    Empty: the arm is not pretrained."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Options of the last of these recipes, keys with dots (`with`)."""
    init_from: str | None = None
    """A checkpoint of others instead."""
    finetune: Mapping[str, Any] = field(default_factory=dict)
    """Options of the fine-tuning of this arm alone."""
    steps: float = 1.0
    """Share of the optimizer steps of the fine-tuning recipe; one that is not 1 is part of what the arm is."""
    labels: tuple[str, ...] | None = None
    """Budgets that it is run with; None for every one."""
    predictions: Mapping[str, str] = field(default_factory=dict)
    """Results of another program on each data set, by its name: nothing is run, they are scored beside the arms."""

    def is_run(self, data: str, labels: str) -> bool:
        """Return whether it is run on a data set with a label budget."""
        if self.predictions:
            return False
        return (not self.pretrain or data in self.pretrain) and (self.labels is None or labels in self.labels)

    def differs_in_steps_alone(self, other: Arm) -> bool:
        """Return whether both begin alike, so that they are two points of one curve over steps."""
        return self != other and replace(self, name=other.name, steps=other.steps, labels=other.labels) == other


@dataclass(frozen=True)
class StepBudget:
    """Which share of the steps a run makes, and of which arm's curve over steps it is a point."""

    arm: str
    """Where an arm has steps of its own (`mae_half`), the one that it is like otherwise (`mae`)."""
    share: float = 1.0

    @property
    def is_whole(self) -> bool:
        """Whether these are all of the steps."""
        return self.share == 1


@dataclass(frozen=True)
class Detector:
    """One detector, trained on every data set."""

    name: str
    recipes: Mapping[str, str]
    """Recipe of each data set by its name."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    data: tuple[str, ...] | None = None
    """Data sets that it is trained on; None for every one."""
    arms: tuple[str, ...] | None = None
    """Arms that it is run with; None for every one."""
    labels: tuple[str, ...] | None = None
    """Budgets that it is run with; None for every one."""

    def is_run(self, data: str, arm: str, labels: str) -> bool:
        """Return whether it is run on a data set with an arm and a label budget."""
        wanted = ((self.data, data), (self.arms, arm), (self.labels, labels))
        return all(names is None or name in names for names, name in wanted)


@dataclass(frozen=True)
class Budget:
    """How many training cases are labeled."""

    name: str
    options: Mapping[str, Any]
    """Those of `data` that say it."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Further options for runs with so few labels, such as fewer steps."""


@dataclass(frozen=True)
class Resources:
    """Resources that one job of a kind asks the engine for; None leaves it to the recipe and the machine."""

    cores: int | None = None
    gpus: int | None = None
    memory_gb: float | None = None
    hours: float | None = None


@dataclass(frozen=True)
class Declaration:
    """What a study is judged by, written down before there are results."""

    metric: NamedMetric
    """The primary one."""
    labels: str
    """Name of the budget that the verdicts are about."""
    delta: float | None = None
    """A difference of the primary metric that counts as none."""
    hypotheses: tuple[Hypothesis, ...] = ()
    places: Mapping[Hypothesis, tuple[tuple[str, str], ...]] | None = None
    """Data set and detector of each place where the study runs what a hypothesis asks for; None where no study says."""
    num_verdicts: int = 0
    """Comparisons with the baseline at this budget over all data sets and detectors, run yet or not; 0 of no study."""
    num_pooled: int = 0
    """Those of them that are pooled over data sets, an arm and a detector each, run yet or not; 0 of no study."""

    def num_asked(self, data: str, detector: str) -> int:
        """Return how many questions are asked in a place, run yet or not; 0 where no study says.

        Args:
            data: name of the data set; empty for all of them together.
            detector: its name.
        """
        asked: set[frozenset[Side]] = set()
        for hypothesis, places in (self.places or {}).items():
            num_here = sum(place == (data, detector) or (not data and place[1] == detector) for place in places)
            if num_here >= (1 if data else MIN_DATA_SETS):
                asked.update(link.question(self.labels) for link in hypothesis.links)
        return len(asked)


NOTHING_DECLARED = Declaration(MAP, ALL)
"""Of runs that are of no study: judged by mAP at their full budget."""


@dataclass(frozen=True)
class Study:
    """A study as its document states it, see `read_study`."""

    name: str
    root: Path
    data: tuple[str, ...]
    arms: tuple[Arm, ...]
    """The baseline first."""
    detectors: tuple[Detector, ...]
    labels: tuple[Budget, ...]
    steps: tuple[float, ...]
    """Shares of the optimizer steps, 1 among them; those below 1 are run with the labels of the declaration."""
    seeds: tuple[int, ...]
    pretrain_seeds: int
    """Encoders per arm; seed s of the fine-tuning begins from the encoder of seed s modulo this number."""
    folds: tuple[int, ...] | Literal["all"] | None
    """Of every store; None for its named splits."""
    declaration: Declaration
    prepare: Mapping[str, tuple[str, ...]]
    """Commands that make a store, by its folder."""
    resources: Mapping[str, Resources]
    results: Path | None = None
    """Where small results of finished jobs are kept, and taken from; None for nowhere."""

    @property
    def folder(self) -> Path:
        """Where all of it is written."""
        return self.root / self.name

    @property
    def num_encoders(self) -> int:
        """Encoders that each pretrained arm gets: seed s takes number s modulo `pretrain_seeds`."""
        return len({seed % self.pretrain_seeds for seed in self.seeds})

    @property
    def baseline(self) -> Arm:
        """The arm that the others are compared with."""
        return self.arms[0]

    def is_run(self, arm: Arm, data: str, detector: Detector, labels: str, steps: float = 1.0) -> bool:
        """Return whether a combination is part of the study."""
        has_steps = steps == 1 or labels == self.declaration.labels
        return has_steps and arm.is_run(data, labels) and detector.is_run(data, arm.name, labels)

    def step_budget(self, arm: str, steps: float = 1.0) -> StepBudget:
        """Return where a run stands on a curve over steps.

        Args:
            arm: its name.
            steps: which of the study's shares the run has.
        """
        own = next(one for one in self.arms if one.name == arm)
        if own.steps == 1:
            return StepBudget(arm, steps)
        whole = [one.name for one in self.arms if one.steps == 1 and own.differs_in_steps_alone(one)]
        return StepBudget(whole[0] if whole else arm, own.steps)
