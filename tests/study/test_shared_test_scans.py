"""Folds that are all tested on the same scans: each has a difference of its own, and is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from medpretrain3d.study.report import Report, make_report
from medpretrain3d.study.run import find_runs

from .test_report import page_of, write_finetuning


def written(root: Path, of_folds: dict[int, tuple[float, float]]) -> Report:
    """Three seeds of two arms, whose boxes are so many voxels of 10 beside the objects in each fold."""
    for seed in range(3):
        for fold, shifts in of_folds.items():
            for arm, shift in zip(("scratch", "mae"), shifts, strict=True):
                write_finetuning(root, f"{arm}_{seed}_{fold}", arm, shift, seed=seed, fold=fold)
    return make_report(find_runs([root]), "Title")


@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_mean_over_folds_has_no_verdict_of_one_of_them(tmp_path: Path, is_reversed: bool):
    shifts = [(5.0, 2.0), (2.0, 5.0)]  # as much better in one fold as it is worse in the other
    report = written(tmp_path / "runs", dict(enumerate(reversed(shifts) if is_reversed else shifts)))
    ((*_, scratch, mae),) = report.matrix.rows
    assert str(scratch) == str(mae)
    assert set(report.matrix.marks.values()) == {"mixed"}
    assert '<span class="mark" title="mixed">↕</span>' in page_of(tmp_path / "runs")


def test_folds_that_agree_have_the_verdict_of_all(tmp_path: Path):
    report = written(tmp_path, {0: (5.0, 2.0), 1: (5.0, 3.0)})
    assert set(report.matrix.marks.values()) == {"better"}


def test_every_number_of_a_fold_says_of_which_it_is(tmp_path: Path):
    report = written(tmp_path, {0: (5.0, 2.0), 3: (2.0, 5.0)})
    assert [row[1] for row in report.differences.rows] == ["d, fold 0", "d, fold 3"]
    assert [row[1] for row in report.training_losses.rows] == ["d, fold 0", "d, fold 3"]
    better, worse = report.verdicts
    assert better.headline.startswith("d, fold 0, 8 labelled cases: mae is better than scratch")
    assert worse.headline.startswith("d, fold 3, 8 labelled cases: mae is worse than scratch")
    (short,) = report.short
    assert short.headline == "mae against scratch: better on d, fold 0 and worse on d, fold 3."
    assert report.forest is not None
    assert all(f"fold {fold}" in report.forest.svg for fold in (0, 3))


def test_a_single_fold_is_said_by_no_row(tmp_path: Path):
    report = written(tmp_path, {2: (5.0, 2.0)})
    assert [row[1] for row in report.differences.rows] == ["d"]
    assert report.verdicts[0].headline.startswith("d, 8 labelled cases")


def test_budgets_are_worth_something_in_each_fold(tmp_path: Path):
    """A curve over labels had each budget as often as there are folds, and was left out."""
    for seed in range(2):
        for fold in (0, 1):
            for labels, scratch, mae in ((4, 6.0, 4.0), (8, 5.0, 2.0)):
                for arm, shift in (("scratch", scratch), ("mae", mae + fold)):
                    name = f"{arm}_{seed}_{fold}_{labels}"
                    write_finetuning(tmp_path, name, arm, shift, labels, seed=seed, fold=fold)
    report = make_report(find_runs([tmp_path]), "Title")
    assert [row[1] for row in report.efficiency.rows] == ["d, fold 0", "d, fold 1"]
    assert [facts["data"] for facts in report.efficiency.facts] == ["d", "d"]
    areas = [row[list(report.efficiency.header).index("area of mAP")] for row in report.efficiency.rows]
    # Shifts of 6, 5 and 4 voxels of 10 have IoU 0.25, 0.33 and 0.43: 4, 5 and 7 of 9 thresholds; of 2 and 3 all.
    assert [area.value * 9 for area in areas] == pytest.approx([((7 - 4) + (9 - 5)) / 2, ((5 - 4) + (9 - 5)) / 2])
    lines = [line for line in report.overview if "area under" in line]
    assert [line.split(" area")[0] for line in lines] == ["mae, d, fold 0,", "mae, d, fold 1,"]
