"""A sweep without a server: Optuna draws options, the stages run as they are, `metrics.csv` says how good they were."""

from __future__ import annotations

import math
import shlex
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpretrain3d.errors import UserError
from medpretrain3d.lines import print_line
from medpretrain3d.study.curves import last_value
from medpretrain3d.study.launch import INTERRUPTED, run_program
from medpretrain3d.study.sweep_file import Choice, Interval, Plain, SweepFile

if TYPE_CHECKING:
    from optuna import Study as Search
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

JOURNAL = "optuna.log"
BAD_INPUT = "bad_input"
"""Attribute of the search: numbers of the trials that have ended by it."""


class Sweep:
    """Trials of a sweep, each a run `<root>/<name>/trial_0000`; what Optuna knows of them is in a file beside.

    Args:
        file: what is searched.
        root: where runs are kept.
        seed: of what is drawn.

    Raises:
        UserError: Optuna is not installed, or the folder holds trials of other parameters, or of another recipe, metric
            or goal.
    """

    def __init__(self, file: SweepFile, root: Path, seed: int = 0) -> None:
        try:
            import optuna
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend
        except ImportError as error:
            raise UserError('sweep: install Optuna with pip install "medpretrain3d[sweep]"') from error
        self._file, self._root, self._seed = file, root, seed
        self.folder = root / file.name
        self.folder.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._distributions = {name: _distribution(one) for name, one in file.parameters.items()}
        storage = JournalStorage(JournalFileBackend(str(self.folder / JOURNAL)))

        def opened() -> Search:
            return optuna.create_study(
                study_name=file.name,
                storage=storage,
                direction="maximize" if file.is_maximized else "minimize",
                load_if_exists=True,
            )

        self._search = opened()
        if not self._search.trials and _differences(self._search, file):
            optuna.delete_study(study_name=file.name, storage=storage)  # nothing was tried of what it was about
            self._search = opened()
        if any(trial.distributions != self._distributions for trial in self._search.trials):
            raise UserError(f"{self.folder}: holds trials of other parameters than the file's; give another --name")
        if found := _differences(self._search, file):
            raise UserError(f"{self.folder}: holds trials of another sweep, {'; '.join(found)}; give another --name")
        for key, value in _about(file).items():
            if self._search.user_attrs.get(key) != value:
                self._search.set_user_attr(key, value)

    def run(self, num_trials: int) -> int:
        """Run trials until so many have ended; one that was interrupted goes on with the options that it had.

        Returns:
            The exit code: 0; 1 when a trial failed or has bad input still; that of an interrupted one.

        Raises:
            UserError: what the sweep asks for is no configuration of the stage.
        """
        from optuna.trial import TrialState

        for trial in self._search.get_trials(states=(TrialState.RUNNING,)):
            if code := self._try(trial.number, self._known(trial.params)):
                return code
        while len(self._search.trials) < num_trials:
            number = len(self._search.trials)
            # Of each trial its own, so that a sweep that was interrupted draws as one that was not.
            self._search.sampler = _sampler(self._file, number, self._seed + number)
            asked = self._search.ask(self._distributions)
            if code := self._try(asked.number, self._known(asked.params)):
                return code
        self._say_best()
        return 1 if self._search.get_trials(states=(TrialState.FAIL, TrialState.RUNNING)) else 0

    def _try(self, number: int, values: Mapping[str, Plain]) -> int:
        """Run a trial; returns the exit code that ends the sweep, 0 where it goes on."""
        from optuna.trial import TrialState

        name = f"trial_{number:04d}"
        folder = self.folder / name
        place = ["--run.root", str(self._root), "--run.group", self._file.name, "--run.name", name]
        words = ["medpretrain3d", self._file.stage, *self._file.command(values), *place]
        print_line(f"{name}: {', '.join(f'{key} {value}' for key, value in values.items())}")
        if not _is_finished(folder):
            log = self.folder / f"{name}.log"
            with log.open("ab") as output:
                output.write(f"$ {shlex.join(words)}\n".encode())
                output.flush()
                code = run_program([sys.executable, "-m", "medpretrain3d", *words[1:]], output)
            if code in INTERRUPTED:
                print_line(f"{name}: interrupted; the same command continues it")
                return code
            if code:
                last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""])[-1]
                if code == 2:
                    self._leave_to_be_mended(number, f"{name}: {last.removeprefix('error: ')} ({log})")
                    return 0
                self._search.tell(number, state=TrialState.FAIL)
                print_line(f"{name}: failed with exit code {code}: {last} ({log})")
                return 0
        value = self._measured(folder)
        if not math.isfinite(value):  # what it was before is no result of a run that diverged
            self._search.tell(number, state=TrialState.FAIL)
            print_line(f"{name}: failed: its last {self._file.metric} is {value}")
            return 0
        self._search.tell(number, value)
        print_line(f"{name}: {self._file.metric} {value:.4g}")
        return 0

    def _leave_to_be_mended(self, number: int, said: str) -> None:
        """Note that a trial ended by bad input, and keep it as one to go on with: mended, it is tried again.

        Raises:
            UserError: it did so for the first time, and all other trials may have the same bad input.
        """
        known = self._search.user_attrs.get(BAD_INPUT, [])
        if number not in known:
            self._search.set_user_attr(BAD_INPUT, [*known, number])
            raise UserError(f"{said}; mended, the same command tries it again")
        print_line(f"{said}, as before; other trials go on")

    def _measured(self, folder: Path) -> float:
        value = last_value(folder / "metrics.csv", self._file.metric)
        if value is None:
            raise UserError(
                f"{folder / 'metrics.csv'}: has no {self._file.metric}; name a column of it as the sweep's metric"
            )
        return value

    def _known(self, params: Mapping[str, Any]) -> dict[str, Plain]:
        return {name: params[name] for name in self._file.parameters}

    def _say_best(self) -> None:
        from optuna.trial import TrialState

        if done := self._search.get_trials(states=(TrialState.COMPLETE,)):
            best = self._search.best_trial
            options = " ".join(f"--{name}={value}" for name, value in self._known(best.params).items())
            print_line(
                f"best of {len(done)} trials: trial_{best.number:04d}, {self._file.metric} {best.value:.4g}: {options}"
            )


def _about(file: SweepFile) -> dict[str, Any]:
    """Return what the values of trials mean, so that those of another sweep are not compared with them."""
    goal = "maximize" if file.is_maximized else "minimize"
    return {"stage": file.stage, "words": list(file.words), "metric": file.metric, "goal": goal}


def _differences(search: Search, file: SweepFile) -> list[str]:
    """Return in words what trials of a search are about that the file is not; earlier versions noted the goal alone."""
    noted = {**search.user_attrs, "goal": search.direction.name.lower()}
    if not any(trial.values for trial in search.trials):
        noted.pop("metric", None)  # which no run had, and that is mended now
    return [
        f"{key}: got {_shown(noted[key])}, the file wants {_shown(value)}"
        for key, value in _about(file).items()
        if noted.get(key, value) != value
    ]


def _shown(value: Any) -> str:
    return shlex.join(value) if isinstance(value, list) else str(value)


def _is_finished(folder: Path) -> bool:
    from medpretrain3d.run_metadata import read_run_metadata

    path = folder / "run.json"
    return path.is_file() and bool(read_run_metadata(path).finished)


def _distribution(one: Choice | Interval) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(one, Choice):
        return CategoricalDistribution(one.values)
    if one.is_whole:
        return IntDistribution(int(one.low), int(one.high))
    return FloatDistribution(one.low, one.high, log=one.is_log, step=one.step)


def _sampler(file: SweepFile, number: int, seed: int) -> BaseSampler:
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import PartialFixedSampler, RandomSampler, TPESampler

    if file.method == "grid":  # `GridSampler` wants to end a loop that is not Optuna's here
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # in Optuna since 2.4
            return PartialFixedSampler(dict(file.combination(number)), RandomSampler())
    return TPESampler(seed=seed) if file.method == "bayes" else RandomSampler(seed=seed)
