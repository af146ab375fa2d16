"""A second stage of runs on boxes that were scored by the distance of centers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from medpretrain3d.boxes import Detections
from medpretrain3d.cli import main
from medpretrain3d.evaluation import read_predictions, read_targets
from medpretrain3d.inference import Prediction
from medpretrain3d.rescoring.candidates import read_candidate_set
from medpretrain3d.store.targets import targets_json
from tests.rescoring.results import BRIGHT, GRID, IDS, write_encoder, write_result, write_store


def test_what_is_near_enough_is_an_object_and_both_stages_are_scored_so(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    path = write_result(tmp_path / "cv") / "predictions.json"
    middle = np.array(BRIGHT).reshape(2, 3).mean(axis=0)
    # Boxes of one voxel at the middle of the object, a voxel beside it and far away: none overlaps it by 0.1.
    centers = middle + np.array([[0.0, 0, 0], [2.4, 0, 0], [10, 0, 0]])
    boxes = torch.from_numpy(np.concatenate([centers - 0.5, centers + 0.5], axis=1))
    seen = Detections(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.long))
    document = json.loads(path.read_text())
    document["predictions"] = [Prediction.of(name, seen, GRID, GRID).to_json() for name in IDS]
    path.write_text(json.dumps(document))
    (tmp_path / "targets.json").write_text(json.dumps(targets_json(store, IDS)))
    targets, found = read_targets(tmp_path / "targets.json").cases, read_predictions(path).cases
    by_overlap, by_distance = (
        read_candidate_set(path, store, found, targets, ["lesion"], is_by_distance=way) for way in (False, True)
    )
    assert not any(one.any() for one in by_overlap.is_object.values())
    assert by_distance.is_object["c0"].tolist() == [True, False, False]
    assert by_distance.is_sample["c0"].tolist() == [True, False, True]
    (path.parent / "metrics.json").write_text(json.dumps({"protocol": "centre"}))
    write_encoder(tmp_path / "encoder")
    words = ["--store", str(tmp_path / "store"), "--init-from", str(tmp_path / "encoder"), "-o", str(tmp_path / "out")]
    small = ["--cube-mm", "16", "--cube-vox", "8", "--batch-size", "2", "--steps", "1", "--device", "cpu"]
    assert main(["rescore", str(path.parent), *words, *small]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["protocol"], metrics["first_stage"]["AP"]) == ("centre", 1.0)
    points = json.loads((tmp_path / "out" / "ensemble" / "bundle.json").read_text())["operating_points"]
    assert points["criterion"] == "radius"
