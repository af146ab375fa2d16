"""Boxes whose runs were scored by the distance of centers: so is all that comes of them."""

from __future__ import annotations

import json

import torch

from medpretrain3d.cli import main
from medpretrain3d.cross_validation import out_of_fold
from medpretrain3d.inference.cached_detections import CachedDetections
from tests.cross_validation.results import NUM_CASES, NUM_FOLDS, write_run, write_store


def test_runs_on_boxes_that_were_scored_by_distance_are_scored_so_together(tmp_path, monkeypatch, capsys):
    store = write_store(tmp_path / "store")
    # Of each object a box of a quarter of its edges, which hits by distance and not by overlap
    for k in range(NUM_FOLDS):
        data = {"store": str(store.path), "fold": k, "patch": [24, 24, 24]}
        run = write_run(tmp_path / "cv" / f"fold_{k}", store, k, config={"data": data, "model": {"protocol": "centre"}})
        path = run / "validation" / "sightings.safetensors"
        seen = CachedDetections.load(path)
        for case in seen.cases:
            low, high = case.raw_detections.detections.boxes.chunk(2, dim=1)
            middle, quarter = (low + high) / 2, (high - low) / 8
            case.raw_detections.detections.boxes.copy_(torch.cat([middle - quarter, middle + quarter], 1))
        seen.save(path)
    asked = []
    original = out_of_fold.score_of_merging
    monkeypatch.setattr(out_of_fold, "score_of_merging", lambda *what: asked.append(found := original(*what)) or found)
    out = tmp_path / "out"
    assert main(["cross-validate", str(tmp_path / "cv"), "-o", str(out)]) == 0
    assert {name for name, _ in asked} == {"AP_center"}
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["protocol"], metrics["AP"], metrics["cross_validation"]["mean"]["AP"]) == ("centre", 1.0, 1.0)
    assert "AP center" in capsys.readouterr().out
    points = json.loads((out / "ensemble" / "bundle.json").read_text())["operating_points"]
    assert points["criterion"] == "radius"
    assert len(points["classes"]["nodule"]["hits"]) == NUM_CASES
