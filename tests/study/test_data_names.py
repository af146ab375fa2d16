"""Data sets of a report are told apart by their names in the study, whatever folders their stores lie in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medpretrain3d.study.report import make_report
from medpretrain3d.study.run import find_runs
from tests.study.test_report import write_finetuning


@pytest.mark.parametrize("fingerprints", ["cf", "cc"], ids=["stores of one folder name", "two recipes on one store"])
def test_data_sets_of_a_study_are_apart_whatever_their_stores_are_called(tmp_path: Path, fingerprints: str):
    """Both arms are at a limit on one, and 4 of 9 thresholds apart on the other: pooled it would be neither."""
    for data, fingerprint, mae in zip(("coarse", "fine"), fingerprints, (5.0, 0.0), strict=True):
        for seed in range(3):
            for arm, shift in (("scratch", 5.0), ("mae", mae)):
                name = f"{arm}-{data}-{seed}"
                facts = {"dataset": "1mm", "data_fingerprint": fingerprint * 16, "minutes": 60.0}
                write_finetuning(tmp_path, name, arm, shift, seed=seed, fold=None, **facts)
    runs = []
    for run in find_runs([tmp_path]):
        arm, data, seed = run.folder.name.split("-")
        design = {"arm": arm, "data": data, "labels": "all", "seed": seed}
        runs.append(replace(run, design=design, is_baseline_arm=arm == "scratch"))
    report = make_report(runs, "Title")
    assert [str(place) for place in report.places] == ["coarse, all labels", "fine, all labels"]
    assert [row[0] for row in report.matrix.rows] == ["coarse", "fine"]
    assert {row[1]: row[5].value for row in report.differences.rows} == {
        "coarse": pytest.approx(0, abs=1e-9),
        "fine": pytest.approx(4 / 9),
    }
    assert [one.title for one in report.case_tables] == ["coarse, all labels", "fine, all labels"]
    assert sorted(row[1:3] for row in report.costs.rows) == sorted(
        [arm, data] for arm in ("scratch", "mae") for data in ("coarse", "fine")
    )
    assert report.forest is not None
    assert ">coarse<" in report.forest.svg
    assert ">fine<" in report.forest.svg
    assert report.short[0].headline == "mae against scratch: better on fine and no verdict on coarse."
    assert [one.headline.partition(",")[0] for one in report.verdicts] == ["coarse", "fine"]
