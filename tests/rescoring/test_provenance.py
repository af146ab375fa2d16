"""What a second stage was made of: which weights, which predictions, which scans."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medpretrain3d.backbones import VolumesSeen, read_encoder
from medpretrain3d.cli import main
from medpretrain3d.documents import json_text
from medpretrain3d.evaluation.detection import MAP_KEY
from medpretrain3d.inference import load_members
from medpretrain3d.rescoring import folds
from tests.rescoring.results import write_encoder, write_result, write_store

SMALL = ["--cube-mm", "16", "--cube-vox", "8", "--batch-size", "2", "--steps", "1", "--device", "cpu"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_store(tmp_path / "store")
    write_result(tmp_path / "cv")
    write_encoder(tmp_path / "encoder")
    return tmp_path


def rescore(place: Path, *options: str) -> int:
    words = ["--store", str(place / "store"), "--init-from", str(place / "encoder"), "-o", str(place / "out")]
    return main(["rescore", str(place / "cv"), *words, *SMALL, *options])


def test_weights_that_were_read_in_another_way_are_trained_anew(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def turned(source: str, options: Any) -> Any:
        """A file of weights without an orientation of their own, as published ones are."""
        encoder = read_encoder(source)
        if options.orientation is None:
            return encoder
        weights = {name: one.transpose(2, 4) if one.dim() == 5 else one for name, one in encoder.weights.items()}
        return replace(encoder, weights=weights)

    monkeypatch.setattr(folds, "read_encoder", turned)
    assert rescore(place) == 0
    before = (place / "out" / "rescorers" / "fold_0" / "rescorer.safetensors").read_bytes()
    capsys.readouterr()
    assert rescore(place, "--orientation", "LPS") == 0
    assert "second stage of an earlier call" not in capsys.readouterr().out
    assert (place / "out" / "rescorers" / "fold_0" / "rescorer.safetensors").read_bytes() != before
    assert rescore(place, "--orientation", "LPS") == 0
    assert "second stage of an earlier call with the same options" in capsys.readouterr().out


def test_scans_of_other_voxels_under_the_same_names_are_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place / "cv" / "predictions.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "voxels": {"c0": "f" * 64}}))
    assert rescore(place) == 2
    assert "1 of 1 cases have other voxels in" in capsys.readouterr().err


def test_scans_that_the_second_stage_was_trained_on_are_among_those_of_the_bundle(place: Path) -> None:
    far = "f" * 64
    write_encoder(place / "encoder", {"volumes_seen": VolumesSeen.of_training([far], with_labels=True).to_json()})
    assert rescore(place) == 0
    members = load_members(place / "out" / "ensemble")
    assert [one.volumes_seen.among({"far": far}, with_labels=True) for one in members] == [["far"]] * 2


def test_detectors_of_another_call_than_the_candidates_are_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place / "cv" / "ensemble" / "bundle.json"
    document = json.loads(path.read_text())
    document["provenance"]["cross_validation"] = {"predictions_sha256": 64 * "0"}
    path.write_text(json.dumps(document))
    assert rescore(place) == 2
    assert "its detectors are of another call of cross-validate than predictions.json" in capsys.readouterr().err


def test_what_is_said_of_the_first_stage_is_said_of_both(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes = ["encoders were pretrained on 2 of 6 cases that their folds hold out"]
    (place / "cv" / "metrics.json").write_text(json_text({"cross_validation": {"notes": notes}}))
    assert rescore(place) == 0
    assert f"note: {notes[0]}" in capsys.readouterr().out
    assert json.loads((place / "out" / "metrics.json").read_text())["cross_validation"]["notes"] == notes


def test_what_trivial_baselines_reach_stands_beside_both_stages(place: Path) -> None:
    baselines = {"position prior": {MAP_KEY: 0.125, "intervals": {MAP_KEY: [0.1, 0.2]}}}
    (place / "cv" / "metrics.json").write_text(json_text({"trivial_baselines": baselines}))
    (place / "cv" / "train_targets.json").write_text('{"kept": "as it is"}')
    assert rescore(place) == 0
    metrics = json.loads((place / "out" / "metrics.json").read_text())
    assert metrics["trivial_baselines"] == metrics["first_stage"]["trivial_baselines"] == baselines
    assert (place / "out" / "train_targets.json").read_text() == '{"kept": "as it is"}'
