"""What a report says where detectors find no more than what looks at no image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medpretrain3d.study.report import make_report
from medpretrain3d.study.run import find_runs

from .test_report import write_finetuning

KEY = "mAP_IoU_0.10_0.50_0.05_MaxDet_100"


def notes_with(root: Path, baselines: dict[str, list[float | None]]) -> list[str]:
    """Notes of a report of two runs from scratch and one of MAE, beside baselines whose mAP is stated run by run."""
    for place, (name, arm, shift) in enumerate((("a", "scratch", 5.0), ("b", "scratch", 5.0), ("c", "mae", 1.0))):
        path = write_finetuning(root, name, arm, shift, seed=place % 2) / "test" / "metrics.json"
        numbers = {one: {KEY: values[place], "intervals": {}} for one, values in baselines.items()}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"trivial_baselines": numbers}))
    return [note for note in make_report(find_runs([root]), "Title").notes if "looks at no image" in note]


def test_arms_that_find_no_more_than_a_baseline_are_named(tmp_path: Path) -> None:
    own = json.loads((write_finetuning(tmp_path / "alone", "a", "scratch", 5.0) / "test" / "metrics.json").read_text())
    scratch = own[KEY]
    assert 0.2 < scratch < 0.8
    (note,) = notes_with(
        tmp_path / "runs",
        {"random boxes": [0.0] * 3, "position prior": [scratch + 0.1, scratch + 0.2, scratch]},
    )
    assert f"the position prior, which looks at no image, has mAP {scratch + 0.1:.3f}" in note
    assert f"not more have scratch {scratch:.3f}:" in note  # and not mae


@pytest.mark.parametrize("values", [[0.0, 0.1, 0.2], [None, None, None]])
def test_nothing_is_said_of_baselines_below_every_arm_or_without_a_number(
    tmp_path: Path, values: list[float | None]
) -> None:
    assert notes_with(tmp_path / "runs", {"position prior": values}) == []
