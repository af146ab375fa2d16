"""Effect of pretraining: each run against the one from scratch that is like it in everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import TargetCase, TargetFile, compare, pair, read_predictions, read_targets
from medpretrain3d.evaluation.detection import MAP_KEY
from medpretrain3d.study.run import AP50, Run
from medpretrain3d.study.table import Estimate

BASELINE = "scratch"
NOT_DISTINGUISHABLE = "not distinguishable"


def _matched(run: Run) -> tuple[object, ...]:
    """What a run and its baseline have in common."""
    own = run.metadata
    return own.dataset, own.fold, own.num_train_cases, own.seed, own.backbone, own.detector


@dataclass(frozen=True)
class Difference:
    """Run minus baseline on the same test cases, with intervals of the paired difference."""

    run: Run
    baseline: Run
    mean_ap: Estimate
    ap50: Estimate
    num_cases: int

    @property
    def verdict(self) -> str:
        """`higher`, `lower` or `not distinguishable`, judged by the interval of mAP."""
        if not self.mean_ap.excludes_zero:
            return NOT_DISTINGUISHABLE
        return "higher" if self.mean_ap.low > 0 else "lower"  # type: ignore[operator]  # excludes_zero has an interval

    @property
    def has_equal_budget(self) -> bool:
        """Whether both were trained for the same number of steps."""
        return self.run.metadata.budget_steps == self.baseline.metadata.budget_steps


def paired_differences(runs: Sequence[Run]) -> tuple[list[Difference], list[str]]:
    """Return the differences of all tested runs, and a sentence for each run where there is none."""
    tested = [run for run in runs if run.is_tested]
    found, missing = [], []
    for run in tested:
        if run.method == BASELINE:
            continue
        baseline = _baseline_of(run, tested)
        if baseline is None:
            missing.append(f"{run.name}: no tested run from scratch with the same data, labels, seed and network")
            continue
        try:
            found.append(difference(run, baseline))
        except UserError as error:
            missing.append(f"{run.name}: no paired difference from {baseline.name}: {error}")
    return found, missing


def difference(run: Run, baseline: Run) -> Difference:
    """Test one run against another.

    Raises:
        UserError: predictions or targets are missing, or were made for different cases.
    """
    targets = read_targets(run.folder / "test" / "targets.json")
    if not _same_targets(targets, read_targets(baseline.folder / "test" / "targets.json")):
        raise UserError("they were tested on different cases or boxes; prepare the data once and test both on it")
    before, after = (
        pair(read_predictions(one.folder / "test" / "predictions.json"), targets) for one in (baseline, run)
    )
    result = compare(before, after, targets.cases, targets.classes)
    estimates = {
        key: Estimate(entry["difference"], entry["interval"][0], entry["interval"][1], is_signed=True)
        for key, entry in result["differences"].items()
    }
    return Difference(run, baseline, estimates[MAP_KEY], estimates[AP50], result["num_cases"])


def _same_targets(a: TargetFile, b: TargetFile) -> bool:
    of_a, of_b = ({one.case: one for one in file.cases} for file in (a, b))
    return (
        a.classes == b.classes
        and of_a.keys() == of_b.keys()
        and all(_same_case(one, of_b[case]) for case, one in of_a.items())
    )


def _same_case(a: TargetCase, b: TargetCase) -> bool:
    """Return whether two runs looked for the same in a scan; an older run's targets do not say on which grid."""
    same_boxes = [
        ours is None or theirs is None or np.array_equal(ours, theirs)
        for ours, theirs in ((a.boxes, b.boxes), (a.labels, b.labels), (a.boxes_vox, b.boxes_vox))
    ]
    return all(same_boxes) and (a.grid is None or b.grid is None or a.grid.is_close(b.grid))


def _baseline_of(run: Run, candidates: Sequence[Run]) -> Run | None:
    alike = [other for other in candidates if other.method == BASELINE and _matched(other) == _matched(run)]
    same_budget = [other for other in alike if other.metadata.budget_steps == run.metadata.budget_steps]
    return next(iter(same_budget or alike), None)
