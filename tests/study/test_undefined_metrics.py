"""Reports of tests in which a metric does not exist: points have no overlap, and scans without objects no recall."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medpretrain3d import cli
from medpretrain3d.documents import json_text
from medpretrain3d.evaluation import PredictedCase, TargetCase
from medpretrain3d.evaluation.protocols import protocol_of
from medpretrain3d.study.report import make_report
from medpretrain3d.study.run import find_runs
from tests.study.test_report import OBJECT, write_run

POINT = [15.0] * 6
CASES = [f"case{i}" for i in range(12)]


def write_found(root: Path, arm: str, shift: float, labels: int, seed: int, objects: Callable[[int], list]) -> None:
    """A tested run whose boxes are all `shift` voxels beside the objects of each case."""
    label = np.zeros(1, int)
    boxes = np.array([[OBJECT[0] + shift, *OBJECT[1:3], OBJECT[3] + shift, *OBJECT[4:]]])
    found = [PredictedCase(case, boxes, np.array([0.5 + i / 30]), label) for i, case in enumerate(CASES)]
    wanted = [
        TargetCase(case, np.array(objects(i)).reshape(-1, 6), np.zeros(len(objects(i)), int))
        for i, case in enumerate(CASES)
    ]
    facts = {"dataset": "d", "num_train_cases": labels, "label_fraction": labels / 8}
    folder = write_run(root, f"{arm}_{labels}_{seed}", [], stage="finetune", paradigm=arm, seed=seed, **facts)
    (folder / "test").mkdir()
    targets = [{"case": one.case, "boxes": one.boxes.tolist(), "labels": one.labels.tolist()} for one in wanted]
    predictions = [
        {"case": one.case, "boxes": boxes.tolist(), "scores": one.scores.tolist(), "labels": [0]} for one in found
    ]
    protocol = protocol_of(wanted)
    documents = {
        "targets": {"classes": ["node"], "targets": targets},
        "predictions": {"classes": ["node"], "predictions": predictions},
        "metrics": {"protocol": protocol.name, **protocol.score(found, wanted, ["node"])},
    }
    for name, document in documents.items():
        (folder / "test" / f"{name}.json").write_text(json_text(document))


def write_arms(root: Path, objects: Callable[[int], list]) -> None:
    """Two arms with two budgets and two seeds; mae is far from every object and scratch on it."""
    for labels in (4, 8):
        for seed in (0, 1):
            write_found(root, "scratch", 0.0, labels, seed, objects)
            write_found(root, "mae", 30.0, labels, seed, objects)


@pytest.mark.parametrize("objects", [lambda _: [POINT], lambda _: []], ids=["points", "no objects"])
def test_a_metric_that_does_not_exist_says_nothing_of_budgets(tmp_path: Path, objects):
    write_arms(tmp_path, objects)
    report = make_report(find_runs([tmp_path]), "Title")
    assert "needs" not in str(report)
    assert report.efficiency.rows == []
    assert any(note.startswith("mae, d: nothing is said of its labels, since the metric") for note in report.notes)


@pytest.mark.filterwarnings("error")
def test_arms_are_not_ranked_by_a_metric_that_does_not_exist_without_a_patient(tmp_path: Path):
    for seed in (0, 1):
        for arm, shift in (("scratch", 5.0), ("mae", 2.0), ("voco", 4.0)):
            write_found(tmp_path, arm, shift, 8, seed, lambda case: [OBJECT] if case == 0 else [])
    (line,) = make_report(find_runs([tmp_path]), "Title").overview
    assert line == (
        "d, 8 labelled cases: arms are not ranked by mAP, which does not exist without one of the scans (nan: no "
        "object)."
    )


def test_points_are_reported_by_distance_unless_another_metric_is_named(tmp_path: Path, capsys):
    write_arms(tmp_path / "runs", lambda _: [POINT])
    call = ["report", str(tmp_path / "runs"), "-o", str(tmp_path / "report.html")]
    assert cli.main(call) == 0
    said = capsys.readouterr().out
    assert "mae is worse than scratch (2 seeds, 12 test cases). AP_center -1.000" in said
    assert "is undefined" not in said
    assert cli.main([*call, "--metric", "mAP"]) == 0
    assert "where mAP, a metric of overlap, is undefined; name AP_center as the metric" in capsys.readouterr().out
    write_arms(tmp_path / "boxes", lambda _: [OBJECT])
    assert cli.main(["report", str(tmp_path), "-o", str(tmp_path / "report.html")]) == 0
    assert "undefined; name AP_center" in capsys.readouterr().out  # boxes among them: mAP
    assert json.loads((tmp_path / "runs/demo/mae_4_0/test/metrics.json").read_text())["protocol"] == "centre"
