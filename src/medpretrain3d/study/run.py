"""A run folder as the two stages leave it behind, read and never written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from medpretrain3d.documents import read_json, read_yaml
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import read_targets
from medpretrain3d.evaluation.detection import MAP_KEY, ap_key, froc_curve_key
from medpretrain3d.run_metadata import RunMetadata
from medpretrain3d.statistics import MIN_PATIENTS
from medpretrain3d.study.curves import Curve, read_curves
from medpretrain3d.study.design import StepBudget
from medpretrain3d.study.run_folders import run_files
from medpretrain3d.study.run_metrics import ADVICE, read_metrics
from medpretrain3d.study.table import Estimate, is_finite

AP50 = ap_key(0.5)
FROC_CURVE = froc_curve_key(0.1)


MARK = 8
"""Characters of a fingerprint that tell data sets of one name apart."""
UNREADABLE = "unreadable"
"""The stage of a run whose `run.json` cannot be read."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run: its folder and the metadata of its `run.json`."""

    folder: Path
    metadata: RunMetadata
    problems: list[str] = field(default_factory=list)
    """What of it could not be read, a line each: the run is shown without it."""
    design: Mapping[str, str] | None = None
    """Its place in a study: arm, data, detector, labels, steps, seed, fold; None of a run that is of none."""
    step_budget: StepBudget | None = None
    """Its point on a curve over steps; None of a run that is of no study."""
    is_baseline_arm: bool = False
    """Whether its arm is the baseline of the study."""
    data_mark: str = ""
    """Begin of its data's fingerprint, where runs found beside it are on other data of the same name."""

    @property
    def name(self) -> str:
        """Group and name, as in the folder's path."""
        return f"{self.metadata.group or self.folder.parent.name}/{self.metadata.name or self.folder.name}"

    @property
    def method(self) -> str:
        """Method that initialized the backbone or is pretraining it: `scratch`, `mae`, ...; an arm of the study.

        Its family is `paradigm`, which stands for both where a file of others was the start. Where fine-tuning learned
        from scans without labels it is part of the method: `scratch + meanteacher`.
        """
        start = self.metadata.method or self.metadata.paradigm or "unknown"
        return f"{start} + {self.metadata.semi_supervised}" if self.metadata.semi_supervised else start

    @property
    def arm(self) -> str:
        """Arm of the study that it is of, or its method outside of one."""
        return self.method if self.design is None else self.design["arm"]

    @property
    def is_baseline(self) -> bool:
        """Whether others are compared with it: it is of the baseline's arm, or outside of a study from scratch."""
        return self.is_baseline_arm if self.design is not None else self.method == "scratch"

    @property
    def data_name(self) -> str:
        """Name of its data set, by which runs are put together: in words of its study, where it is of one.

        Outside of one it is the folder name of its store, which stores in several places may share; then its
        fingerprint tells them apart.
        """
        named = (self.design or {}).get("data")
        return named or f"{self.metadata.dataset or 'unknown'} {self.data_mark}".rstrip()

    @property
    def setting(self) -> tuple[str, int]:
        """Data set and number of labeled training cases, shared by the runs that are plotted side by side."""
        return self.data_name, self.metadata.num_train_cases or 0

    @property
    def is_finished(self) -> bool:
        """Whether the run ended well."""
        return bool(self.metadata.finished)

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """Every column of `metrics.csv`; empty where the file is missing."""
        path = self.folder / "metrics.csv"
        try:
            return read_curves(path) if path.is_file() else {}
        except UserError as error:
            self.problems.append(str(error))
            return {}

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The test's numbers as `evaluate` writes them; empty where the run was not tested."""
        path = self.folder / "test" / "metrics.json"
        try:
            return read_metrics(path) if path.is_file() else {}
        except UserError as error:
            self.problems.append(str(error))
            return {}

    @property
    def tested_cases(self) -> list[str]:
        """Names of the test cases."""
        return [str(row["case"]) for row in self.metrics.get("per_case", [])]

    @property
    def num_patients(self) -> int:
        """Patients that the test cases are of; a test of an earlier version takes each case for one of its own."""
        return int(self.metrics.get("num_patients", self.metrics.get("num_cases", 0)))

    @cached_property
    def training_cases(self) -> frozenset[str] | None:
        """Names of the cases that it was trained on with their labels; None of a run that does not say."""
        path = self.folder / "test" / "train_targets.json"
        try:
            return frozenset(case.case for case in read_targets(path).cases) if path.is_file() else None
        except UserError as error:
            self.problems.append(str(error))
            return None

    @cached_property
    def asked_labels(self) -> str | None:
        """Labels that its configuration asks for, a share or a number of cases; None where it asks for all.

        Folds differ by a case or two in how many that are.
        """
        path = self.folder / "config.yaml"
        try:
            document = read_yaml(path, "repeat the run") if path.is_file() else {}
        except UserError:
            return None  # which is said where its options are read
        data = document.get("data") if isinstance(document, Mapping) else None
        if not isinstance(data, Mapping):
            return None
        count, fraction = data.get("num_train_cases"), data.get("label_fraction")
        return str(count) if count is not None else None if fraction in (None, 1) else str(fraction)

    @property
    def is_tested(self) -> bool:
        """Whether there are numbers of a test."""
        return MAP_KEY in self.metrics or self.is_by_center

    @property
    def is_by_center(self) -> bool:
        """Whether its test scored the distance of centers, as of points, and not the overlap of boxes."""
        return self.metrics.get("protocol") == "centre"

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

    @property
    def has_pictures(self) -> bool:
        """Whether its test left anything to look at."""
        return any((self.folder / "test" / name).is_dir() for name in ("slices", "pictures"))

    @property
    def has_curves(self) -> bool:
        """Whether there is a `metrics.csv` with anything in it."""
        path = self.folder / "metrics.csv"
        return path.is_file() and path.stat().st_size > 0

    def estimate(self, key: str) -> Estimate:
        """Return a number of the test with its interval; not-a-number where it was not measured."""
        return Estimate(self.metrics.get(key), *(self.interval(key) or (None, None)))

    def interval(self, key: str) -> Any:
        """Return the interval of a number, or one per point of a curve; None where none claims its confidence.

        Those of earlier versions were percentiles of a bootstrap, which cover less than they say.
        """
        is_claimed = self.metrics.get("interval_method") and self.num_patients >= MIN_PATIENTS
        return self.metrics.get("intervals", {}).get(key) if is_claimed else None

    @property
    def baseline_names(self) -> list[str]:
        """Trivial baselines that were tested on the same scans."""
        return list(self.metrics.get("trivial_baselines", {}))

    def baseline_estimate(self, name: str, key: str) -> Estimate:
        """Return a number of a trivial baseline with its interval."""
        numbers = self.metrics["trivial_baselines"][name]
        value, intervals = numbers.get(key), numbers.get("intervals")
        pair = intervals.get(key, ()) if isinstance(intervals, dict) else ()
        is_claimed = len(pair) == 2 and self.num_patients >= MIN_PATIENTS
        return Estimate(None if isinstance(value, dict) else value, *(pair if is_claimed else (None, None)))

    @property
    def recall_levels(self) -> list[float]:
        """Recall at which `precision` is given; empty where the test did not write it."""
        levels = self.metrics.get("precision_recall", {}).get("recall")
        return levels if isinstance(levels, list) and all(map(is_finite, levels)) else []

    def precision(self, key: str) -> tuple[list[float | None] | None, list[list[float | None]] | None]:
        """Return a curve of precision by recall, and its interval at each point; None where there is none."""
        found = self.metrics.get("precision_recall", {})
        values, intervals = found.get(key), found.get("intervals")
        if not isinstance(values, list):
            return None, None
        pairs = intervals.get(key) if isinstance(intervals, dict) and self.interval(FROC_CURVE) else None
        is_whole = pairs is not None and len(pairs) == len(values) and all(len(pair) == 2 for pair in pairs)
        return values, pairs if is_whole else None

    def gain_without(self, error: str) -> float | None:
        """Return what AP at IoU 0.5 gains without a kind of error; None where the test did not say."""
        found = self.metrics.get("error_analysis", {}).get(error)
        return found["gain"] if isinstance(found, dict) else None

    def class_estimates(self, key: str = AP50) -> dict[str, Estimate]:
        """Return the same number for each class by its name."""
        ending = f"_{key}"
        return {name.removesuffix(ending): self.estimate(name) for name in self.metrics if name.endswith(ending)}


def find_runs(folders: Iterable[Path]) -> list[Run]:
    """Return all runs in and below the folders, and behind links there, each once, in the order a report lists them.

    Raises:
        UserError: a folder does not exist, or there is no run below any of them.
    """
    folders = [Path(folder) for folder in folders]
    files: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; give run folders, or a folder that contains them such as runs/")
        for path in run_files(folder):
            files.setdefault(path.resolve(), path)
    runs = [_read_run(path) for path in files.values()]
    runs = [run for run in runs if run.metadata.stage is not None]  # other tools, too, have files called run.json
    if not runs:
        names = ", ".join(str(folder) for folder in folders)
        raise UserError(
            f"{names}: no run found (no run.json in it or below); train with `medpretrain3d pretrain` or "
            "`medpretrain3d finetune` first, or give the folder that run.root names"
        )
    if all(run.metadata.stage == UNREADABLE for run in runs):
        raise UserError(runs[0].problems[0])
    return sorted(_told_apart(runs), key=_reading_order)


def _told_apart(runs: Sequence[Run]) -> list[Run]:
    """Mark the runs on data of one name and several fingerprints; one that does not say its own keeps the name."""
    found: dict[str | None, set[str]] = {}
    for run in runs:
        if run.metadata.data_fingerprint and run.metadata.dataset:
            found.setdefault(run.metadata.dataset, set()).add(run.metadata.data_fingerprint)
    shared = {name for name, fingerprints in found.items() if len(fingerprints) > 1}
    return [
        replace(run, data_mark=(run.metadata.data_fingerprint or "")[:MARK]) if run.metadata.dataset in shared else run
        for run in runs
    ]


def _reading_order(run: Run) -> tuple[Any, ...]:
    return (
        run.metadata.stage != "pretrain",
        run.setting,
        run.method != "scratch",  # the baseline comes first
        run.method,
        -1 if run.metadata.seed is None else run.metadata.seed,
        run.name,
    )


def _read_run(path: Path) -> Run:
    """Return a run, also one whose metadata cannot be read: it is listed with the reason."""
    try:
        document: dict[str, Any] = read_json(path, dict[str, Any], ADVICE, allow_nan=True)
        known = RunMetadata.from_json(document, str(path), ADVICE) if "stage" in document else RunMetadata()
        return Run(path.parent, known)
    except UserError as error:
        return Run(path.parent, RunMetadata(stage=UNREADABLE), [str(error)])
