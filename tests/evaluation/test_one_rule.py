"""Whatever `evaluate` prints beside its result follows the rule and the convention of the result."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from medpretrain3d.commands import evaluate
from medpretrain3d.evaluation.detection import MAP_KEY, mean_ar_key

BOX = [0.0, 0, 0, 4, 4, 4]
CLASSES = ["cyst", "mass", "absent"]
COMPATS = ("none", "nndetection", "monai", "coco")


def write(path: Path, key: str, entries: list[dict[str, object]], frame: str | None = None) -> Path:
    path.write_text(json.dumps({"classes": CLASSES, key: entries, **({"frame": frame} if frame else {})}))
    return path


def result_of(folder: Path, *options: object) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    words = [*options, "-o", folder / "out.json", "--bootstrap", 0]
    assert evaluate.run(parser.parse_args([str(word) for word in words])) == 0
    return dict(json.loads((folder / "out.json").read_text()))


@pytest.fixture
def places(tmp_path) -> list[object]:
    """Two scans: all is found, and of three classes one has no object."""
    wanted = [{"case": case, "boxes": [BOX], "labels": [label]} for label, case in enumerate("xy")]
    found = [{**one, "scores": [0.9]} for one in wanted]
    return [
        *("--predictions", write(tmp_path / "predictions.json", "predictions", found)),
        *("--targets", write(tmp_path / "targets.json", "targets", wanted)),
    ]


class _Store:
    """A store of which nothing but the folds is asked."""

    def __init__(self, path: Path) -> None:
        self.all_splits = self
        self.held_out = {"x": 0, "y": 0}


@pytest.mark.parametrize("compat", COMPATS)
def test_a_fold_of_all_cases_has_the_numbers_of_the_result(places, tmp_path, monkeypatch, compat):
    monkeypatch.setattr("medpretrain3d.commands.protocols.Store", _Store)
    result = result_of(tmp_path, *places, "--compat", compat, "--folds", tmp_path)
    # nnDetection and MONAI give the class without objects an AP of -1: (1 + 1 - 1) / 3.
    assert result[MAP_KEY] == pytest.approx(1 / 3 if compat in ("nndetection", "monai") else 1)
    (fold,) = result["cross_validation"]["folds"]
    assert fold[MAP_KEY] == pytest.approx(result[MAP_KEY])


@pytest.mark.parametrize(("hit", "expected"), [("radius", 1.0), ("0.5", 0.0), ("1.5", 1.0)])
def test_a_fold_is_scored_by_the_distance_that_the_result_is(tmp_path, monkeypatch, hit, expected):
    monkeypatch.setattr("medpretrain3d.commands.protocols.Store", _Store)
    wanted = [{"case": case, "boxes": [BOX], "labels": [0]} for case in "xy"]
    aside = [BOX[0] + 1, *BOX[1:3], BOX[3] + 1, *BOX[4:]]
    places = [
        *(
            "--predictions",
            write(tmp_path / "p.json", "predictions", [w | {"boxes": [aside], "scores": [1]} for w in wanted]),
        ),
        *("--targets", write(tmp_path / "t.json", "targets", wanted)),
    ]
    result = result_of(tmp_path, *places, "--protocol", "centre", "--hit", hit, "--folds", tmp_path)
    (fold,) = result["cross_validation"]["folds"]
    assert fold["AP"] == result["cross_validation"]["mean"]["AP"] == pytest.approx(result["AP"]) == expected


@pytest.mark.parametrize("compat", COMPATS)
def test_a_prior_that_finds_all_has_the_numbers_of_a_detector_that_does(places, tmp_path, compat):
    train = [{"case": f"{number}", "boxes": [BOX, BOX], "labels": [0, 1]} for number in range(3)]
    wanted = [{"case": "x", "boxes": [BOX, BOX], "labels": [0, 1]}]
    write(tmp_path / "predictions.json", "predictions", [{**wanted[0], "scores": [0.9, 0.9]}])
    write(tmp_path / "targets.json", "targets", wanted)
    extra = ("--train-targets", write(tmp_path / "train.json", "targets", train))
    result = result_of(tmp_path, *places, "--compat", compat, *extra)
    prior = result["trivial_baselines"]["position prior"]
    for key in (MAP_KEY, mean_ar_key(100)):
        assert prior[key] == pytest.approx(result[key])


def test_training_boxes_are_those_of_the_targets_whatever_nndetection_adds_to_its_own(tmp_path):
    targets = write(tmp_path / "targets.json", "targets", [{"case": "x", "boxes": [BOX], "labels": [0]}], "lps_mm")
    (tmp_path / "found").mkdir()
    # In the order of SimpleITK's array, (z0, y0, z1, y1, x0, x1), a voxel too long at the low side.
    geometry = {"itk_origin": (0.5, 0.5, 0.5), "itk_spacing": (1.0, 1, 1), "itk_direction": np.eye(3)}
    geometry |= {"original_size_of_raw_data": (9, 9, 9)}
    boxes = {"pred_boxes": np.array([[-1.0, -1, 4, 4, -1, 4]]), "pred_scores": np.array([0.9])}
    np.savez(tmp_path / "found" / "x_boxes.npz", **boxes, pred_labels=np.array([0]), restore=True, **geometry)
    options = ("--predictions", tmp_path / "found", "--targets", targets, "--boxes", "nndetection")
    result = result_of(tmp_path, *options, "--train-targets", targets)
    assert result[MAP_KEY] == pytest.approx(1)
    assert result["trivial_baselines"]["position prior"][MAP_KEY] == pytest.approx(1)
