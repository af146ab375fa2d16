"""A run folder as the two stages leave it behind, read and never written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.detection import MAP_KEY, ap_key, froc_curve_key, froc_score_key
from medpretrain3d.study.curves import Curve, read_curves
from medpretrain3d.study.table import Estimate

AP10, AP50 = ap_key(0.1), ap_key(0.5)
FROC_CURVE, FROC_SCORE = froc_curve_key(0.1), froc_score_key(0.1)


@dataclass(frozen=True, eq=False)
class Run:
    """One run: its folder and the flat facts of its `run.json`."""

    folder: Path
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        """Group and name, as in the folder's path."""
        return f"{self.facts.get('group', self.folder.parent.name)}/{self.facts.get('name', self.folder.name)}"

    @property
    def method(self) -> str:
        """How the backbone was initialised or is being pretrained: `scratch`, `mae`, ...; an arm of the study.

        Its family is the fact `paradigm`, which stands for both where a file of others was the start.
        """
        return str(self.facts.get("method") or self.facts.get("paradigm", "unknown"))

    @property
    def setting(self) -> tuple[str, int]:
        """What a run shares with those it is plotted beside: data set and number of labelled training cases."""
        return str(self.facts.get("dataset", "unknown")), int(self.facts.get("num_train_cases") or 0)

    @property
    def is_finished(self) -> bool:
        """Whether the run ended well."""
        return bool(self.facts.get("finished", False))

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """Every column of `metrics.csv`; empty where the file is missing."""
        path = self.folder / "metrics.csv"
        return read_curves(path) if path.is_file() else {}

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The test's numbers as `evaluate` writes them; empty where the run was not tested."""
        path = self.folder / "test" / "metrics.json"
        return _read_json(path) if path.is_file() else {}

    @property
    def is_tested(self) -> bool:
        """Whether there are numbers of a test."""
        return MAP_KEY in self.metrics

    @cached_property
    def case_scores(self) -> dict[str, float]:
        """One number per test case, the higher the better."""
        scores = {str(row["case"]): row.get("score") for row in self.metrics.get("per_case", [])}
        return {case: float(score) for case, score in scores.items() if score is not None and score == score}

    @property
    def previews(self) -> list[tuple[int, Path]]:
        """Step and picture of what pretraining looked like, first step first."""
        found = [(path.stem.rpartition("_")[2], path) for path in (self.folder / "previews").glob("step_*.png")]
        return sorted((int(step), path) for step, path in found if step.isdigit())

    @property
    def pictures(self) -> dict[str, Path]:
        """Picture of each test case by its id."""
        return {path.stem: path for path in sorted((self.folder / "test" / "pictures").glob("*.png"))}

    def estimate(self, key: str) -> Estimate:
        """A number of the test with its interval; not-a-number where it was not measured."""
        value = self.metrics.get(key)
        interval = self.metrics.get("intervals", {}).get(key) or (None, None)
        return Estimate(value, *interval)

    def class_estimates(self, key: str = AP50) -> dict[str, Estimate]:
        """The same number for each class by its name."""
        ending = f"_{key}"
        return {name.removesuffix(ending): self.estimate(name) for name in self.metrics if name.endswith(ending)}


def find_runs(folders: Iterable[Path]) -> list[Run]:
    """All runs in and below the folders, each once, in the order a report lists them.

    Raises:
        UserError: a folder does not exist, there is no run below any of them, or a `run.json` cannot be read.
    """
    folders = [Path(folder) for folder in folders]
    files: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; give run folders, or a folder that contains them such as runs/")
        for path in sorted(folder.rglob("run.json")):
            files.setdefault(path.resolve(), path)
    runs = [Run(path.parent, _read_json(path)) for path in files.values()]
    runs = [run for run in runs if "stage" in run.facts]  # other tools, too, have files called run.json
    if not runs:
        names = ", ".join(str(folder) for folder in folders)
        raise UserError(
            f"{names}: no run found (no run.json in it or below); train with `python -m pretrain` or "
            "`python -m finetune` first, or give the folder that run.root names"
        )
    return sorted(runs, key=_reading_order)


def arm_names(runs: Sequence[Run]) -> dict[Run, str]:
    """What to call the arm of each run: the method, with the facts that tell arms of one method apart."""
    names = {run: run.method for run in runs}
    for fact in ("detector", "backbone", "corpus", "num_pretrain_volumes", "budget_steps"):
        for method in {run.method for run in runs}:
            alike = [run for run in runs if run.method == method]
            values = {(run.setting, str(run.facts.get(fact))) for run in alike}
            # Compared within a setting: steps that grow with the labels make one arm, not several.
            if len(values) > len({setting for setting, _ in values}):
                for run in alike:
                    names[run] += f", {_in_words(fact, run.facts.get(fact))}"
    return names


def _in_words(fact: str, value: Any) -> str:
    if fact == "num_pretrain_volumes":
        return f"{value} volumes"
    return f"{value} steps" if fact == "budget_steps" else str(value)


def _reading_order(run: Run) -> tuple[Any, ...]:
    facts = run.facts
    return (
        facts["stage"] != "pretrain",
        run.setting,
        run.method != "scratch",  # the baseline comes first
        run.method,
        str(facts.get("seed", "")).zfill(9),
        run.name,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is not readable JSON ({error}); repeat the run or take its folder away") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, wanted an object of facts; repeat the run")
    return content
