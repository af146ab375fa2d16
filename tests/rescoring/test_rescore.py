"""The command that gives a cross-validation a second stage."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medpretrain3d.api.detector import Detector
from medpretrain3d.backbones import ViT, VolumesSeen
from medpretrain3d.boxes import Detections
from medpretrain3d.cli import main
from medpretrain3d.cross_validation.candidates import read_candidates
from medpretrain3d.evaluation import read_predictions, read_targets
from medpretrain3d.evaluation.detection import MAP_KEY, ap_key
from medpretrain3d.inference import Prediction, Rescorer, ScanTiles, second_stage
from medpretrain3d.inference.candidate_cubes import candidate_cubes
from medpretrain3d.rescoring import training
from medpretrain3d.rescoring.candidates import CandidateSet, read_candidate_set
from medpretrain3d.rescoring.folds import SecondStage
from medpretrain3d.store import Preprocessing, Volume
from medpretrain3d.store.case import Case
from medpretrain3d.store.store import Store
from medpretrain3d.store.targets import targets_json
from tests.rescoring import results
from tests.rescoring.results import BRIGHT, DARK, FOLDS, GRID, IDS, SHAPE, write_encoder, write_result, write_store

SMALL = ["--cube-mm", "16", "40", "--cube-vox", "8", "--batch-size", "8", "--lr", "3e-3", "--device", "cpu"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rescore")
    write_store(folder / "store")
    write_result(folder / "cv")
    write_encoder(folder / "encoder")
    return folder


def rescore(place: Path, result: Path, out: Path, *options: str, encoder: str = "encoder") -> int:
    words = [str(result), "--store", str(place / "store"), "--init-from", str(place / encoder), "-o", str(out)]
    return main(["rescore", *words, *SMALL, *options])


@pytest.fixture(scope="module")
def learned(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("learned") / "out"
    assert rescore(place, place / "cv", out, "--steps", "40") == 0
    return out


def metrics_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return found


def test_it_learns_to_tell_objects_from_what_was_taken_for_them(place: Path, learned: Path) -> None:
    found = metrics_of(learned)
    # Of two candidates in every case the false one comes first: a precision of 1/2 at every recall at best.
    assert found["first_stage"][ap_key(0.1)] < 0.55
    assert found[ap_key(0.1)] == pytest.approx(1.0)
    before, after = (
        read_candidates(one / "predictions.json", Store(place / "store")) for one in (place / "cv", learned)
    )
    for case in IDS:  # the same boxes, in another order
        assert after[case].boxes[0].tolist() == pytest.approx(list(BRIGHT))
        assert sorted(before[case].boxes.tolist()) == sorted(after[case].boxes.tolist())


def test_the_bundle_predicts_with_what_was_trained(learned: Path, place: Path) -> None:
    detector = Detector.from_pretrained(learned / "ensemble", device="cpu")
    rescorers = [bundle.rescorer for bundle in detector.predictor.bundles]
    assert [one is not None and one.edges_mm for one in rescorers] == [(16.0, 40.0)] * 2
    image = Store(place / "store").case("c0").read_image((0, 0, 0), (24, 24, 24))[0]
    first = Detector.from_pretrained(place / "cv" / "ensemble", device="cpu").predict(image, spacing_mm=(2, 2, 2))
    both = detector.predict(image, spacing_mm=(2, 2, 2))
    assert len(both) == len(first) > 0
    assert both.scores.tolist() != first.scores.tolist()
    points = json.loads((learned / "ensemble" / "bundle.json").read_text())["operating_points"]
    assert points["classes"]["lesion"]["num_targets"] == len(IDS)
    assert min(points["classes"]["lesion"]["hits"]) > max(points["classes"]["lesion"]["false_positives"])


def test_what_a_call_trained_the_same_call_finds_again(
    place: Path, learned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "configure", None)  # nothing can be trained
    before = (learned / "predictions.json").read_bytes()
    assert rescore(place, place / "cv", learned, "--steps", "40") == 0
    told = capsys.readouterr().out
    assert "fold 1: second stage of an earlier call with the same options" in told
    assert (learned / "predictions.json").read_bytes() == before
    assert "first stage        both  difference" in told
    monkeypatch.undo()
    assert rescore(place, place / "cv", learned, "--steps", "1") == 0
    assert "trained on 3 hits and 3 false positives of 3 cases; left out: 0 candidates" in capsys.readouterr().out


def test_it_looks_where_the_candidates_are_whatever_the_spacing_of_the_store(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[tuple[float, ...]] = set()
    trained: set[tuple[float, ...]] = set()

    def noting(seen: set[tuple[float, ...]]) -> Callable[..., torch.Tensor]:
        def cubes(tiles: ScanTiles, center_vox: np.ndarray, *rest: Any) -> torch.Tensor:
            seen.add(tuple((center_vox * tiles.spacing_mm).round(6).tolist()))
            return candidate_cubes(tiles, center_vox, *rest)

        return cubes

    monkeypatch.setattr(second_stage, "candidate_cubes", noting(asked))
    monkeypatch.setattr(training, "candidate_cubes", noting(trained))
    monkeypatch.setattr(training, "LARGEST_SHIFT", 0.0)
    result = write_result(tmp_path / "cv", spacing_mm=(4.0, 3.0, 2.0))  # the store is at 2 mm
    assert rescore(place, result, tmp_path / "out", "--steps", "1") == 0
    # From the outer face of the first voxel: the middle of 3 to 8 and 4 to 9 voxels of 2 mm, of 14 to 19 and 13 to 18.
    assert asked == trained == {(11, 13, 13), (33, 31, 31)}


def test_no_training_scan_is_read_whole_at_another_spacing_and_what_is_learned_is_the_same(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = write_result(tmp_path / "cv", spacing_mm=(4.0, 3.0, 2.0))  # the store is at 2 mm
    shapes: list[tuple[int, ...]] = []
    read_image, train, score = Case.read_image, training.train_rescorer, SecondStage.scores_of

    def noting(case: Case, *region: Any) -> np.ndarray:
        shapes.append((found := read_image(case, *region)).shape)
        return found

    def checked(rescorer: Rescorer, candidates: CandidateSet, scans: dict[str, ScanTiles], *rest: Any) -> Rescorer:
        again = copy.deepcopy(rescorer)
        trained = train(rescorer, candidates, scans, *rest)
        assert shapes
        assert (1, *SHAPE) not in shapes
        whole = Preprocessing(patch=SHAPE, spacing_mm=(4.0, 3.0, 2.0))
        held = {case: ScanTiles(Store(place / "store").case(case), whole) for case in scans}
        reference = train(again, candidates, held, *rest).state_dict()
        assert all(torch.equal(reference[name], weight) for name, weight in trained.state_dict().items())
        return trained

    def scored(*what: Any) -> dict[str, np.ndarray]:
        found = score(*what)
        shapes.clear()
        return found

    monkeypatch.setattr(Case, "read_image", noting)
    monkeypatch.setattr("medpretrain3d.rescoring.folds.train_rescorer", checked)
    monkeypatch.setattr(SecondStage, "scores_of", scored)
    assert rescore(place, result, tmp_path / "out", "--steps", "2", "--cube-mm", "8", "16") == 0


@pytest.mark.parametrize("constant", [0.0, 1.5])
def test_a_constant_rescorer_leaves_every_metric_as_it_was(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constant: float
) -> None:
    def constant_of(rescorer: Rescorer, *_: object) -> Rescorer:
        torch.nn.init.constant_(rescorer.linear.bias, constant)
        return rescorer.eval()

    monkeypatch.setattr("medpretrain3d.rescoring.folds.train_rescorer", constant_of)
    assert rescore(place, place / "cv", tmp_path / "out") == 0
    found = metrics_of(tmp_path / "out")
    first = found.pop("first_stage")
    assert first["cross_validation"]["mean"][MAP_KEY] > 0
    of_scores = ("calibration", "operating_points", "confusion", "per_case")  # what says or asks for scores themselves
    for key in first:
        if constant == 0 or key not in of_scores:
            assert json.dumps(found[key]) == json.dumps(first[key]), key
    if constant == 0:
        before, after = (json.loads((one / "predictions.json").read_text()) for one in (place / "cv", tmp_path / "out"))
        assert after == before


def test_scans_may_be_named_by_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [case.removeprefix("c") for case in IDS]
    folds = [{part: tuple(case.removeprefix("c") for case in cases) for part, cases in one.items()} for one in FOLDS]
    monkeypatch.setattr(results, "IDS", names)
    monkeypatch.setattr(results, "FOLDS", folds)
    write_store(tmp_path / "store")
    path = write_result(tmp_path / "cv") / "predictions.json"
    write_encoder(tmp_path / "encoder")
    document = json.loads(path.read_text())
    for entry in document["predictions"]:
        entry["case"] = int(entry["case"])
    path.write_text(json.dumps(document))
    assert rescore(tmp_path, tmp_path / "cv", tmp_path / "out", "--steps", "1") == 0
    assert [one.case for one in read_predictions(tmp_path / "out" / "predictions.json").cases] == names


def test_a_damaged_second_stage_is_said_and_trained_again(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rescore(place, place / "cv", tmp_path / "out", "--steps", "1") == 0
    weights = tmp_path / "out" / "rescorers" / "fold_0" / "rescorer.safetensors"
    before, result = weights.read_bytes(), (tmp_path / "out" / "predictions.json").read_bytes()
    weights.write_bytes(b"")
    capsys.readouterr()
    assert rescore(place, place / "cv", tmp_path / "out", "--steps", "1") == 0
    told = capsys.readouterr().out
    assert "fold 0: trained again, since what an earlier call left cannot be read: " in told
    assert "fold 1: second stage of an earlier call" in told
    assert weights.read_bytes() == before
    assert (tmp_path / "out" / "predictions.json").read_bytes() == result


def test_drop_path_follows_the_seed() -> None:
    found = Detections(torch.tensor([DARK, BRIGHT]), torch.tensor([0.6, 0.5]), torch.zeros(2, dtype=torch.long))
    candidates = CandidateSet({"a": found}, {"a": np.array([False, True])}, {"a": np.array([True, True])}, {"a": 0})
    image = np.random.default_rng(0).integers(-100, 100, (1, 24, 24, 24), dtype=np.int16)
    scans = {"a": ScanTiles(Volume(image, GRID, GRID), Preprocessing(patch=(8, 8, 8)))}

    def trained() -> dict[str, torch.Tensor]:
        torch.random.default_generator.seed()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            rescorer = Rescorer(ViT(**{**ViT.tiny, "drop_path": 0.5}), 1, (16.0, 24.0), 16)
        once = training.RescorerTraining(num_steps=3, batch_size=4)
        return training.train_rescorer(rescorer, candidates, scans, ["x"], once, torch.device("cpu")).state_dict()

    first, again = trained(), trained()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_candidates_in_fold_are_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stated = [{"fold": k, "cases": fold["val"], "train_cases": [*fold["train"], "c3"]} for k, fold in enumerate(FOLDS)]
    result = write_result(tmp_path / "cv", stated)
    assert rescore(place, result, tmp_path / "out") == 2
    assert "case 'c3' is in-fold: the detector of fold 1, which looked at it" in capsys.readouterr().err


def test_an_encoder_that_saw_labels_of_the_fold_is_refused_and_one_per_fold_may_be_named(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(place / "store")
    for k, fold in enumerate(FOLDS):
        seen = VolumesSeen.of_training((str(store.entries[case]["voxels"]) for case in fold["train"]), with_labels=True)
        write_encoder(place / f"encoder_{k}", {"volumes_seen": seen.to_json()})
    assert rescore(place, place / "cv", tmp_path / "out", encoder="encoder_0") == 2
    assert "was trained with labels on 3 of 3 cases that fold 1 holds out, first 'c1'" in capsys.readouterr().err
    assert rescore(place, place / "cv", tmp_path / "out", "--steps", "1", encoder="encoder_{fold}") == 0


def test_what_touches_an_object_without_hitting_it_is_no_sample_and_copies_stay_out_of_a_fold(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(place / "store")
    result = write_result(tmp_path / "cv")
    document = json.loads((result / "predictions.json").read_text())
    document["predictions"][0]["boxes_vox"][0] = [8.0, 9, 9, 12, 12, 12]  # it shares a corner with the object
    document["predictions"][0]["boxes"][0] = [15.0, 17, 17, 23, 23, 23]
    (result / "predictions.json").write_text(json.dumps(document))
    (tmp_path / "targets.json").write_text(json.dumps(targets_json(store, IDS)))
    targets = read_targets(tmp_path / "targets.json").cases
    found = read_predictions(result / "predictions.json").cases
    candidates = read_candidate_set(result / "predictions.json", store, found, targets, ["lesion"])
    assert candidates.is_object["c0"].tolist() == [False, True]
    assert candidates.is_sample["c0"].tolist() == [False, True]
    assert candidates.training_cases(store, 1) == list(FOLDS[1]["train"]) == ["c0", "c2", "c4"]
    entries = {name: dict(row) for name, row in store.entries.items()}
    entries["c0"]["patient"] = entries["c1"]["patient"] = "p"
    monkeypatch.setattr(store, "entries", entries)
    assert candidates.training_cases(store, 1) == ["c2", "c4"]
    assert np.array_equal(candidates.is_sample["c1"], [True, True])


def test_a_second_candidate_within_the_radius_of_a_point_is_no_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point, near, far = ((x, 8.0, 8.0, x, 8.0, 8.0) for x in (6.0, 7.5, 9.0))  # in voxels of 2 mm: 0, 3 and 6 mm
    monkeypatch.setattr(results, "BRIGHT", point)
    store = write_store(tmp_path / "store")
    boxes = torch.tensor([point, near, far]) + torch.tensor([-0.2, -0.2, -0.2, 0.2, 0.2, 0.2])
    seen = Detections(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.long))
    path = write_result(tmp_path / "cv") / "predictions.json"
    document = json.loads(path.read_text())
    document["predictions"] = [Prediction.of(name, seen, GRID, GRID).to_json() for name in IDS]
    path.write_text(json.dumps(document))
    (tmp_path / "targets.json").write_text(json.dumps(targets_json(store, IDS)))
    targets, found = read_targets(tmp_path / "targets.json").cases, read_predictions(path).cases
    candidates = read_candidate_set(path, store, found, targets, ["lesion"])
    assert candidates.is_object["c0"].tolist() == [True, False, False]
    assert candidates.is_sample["c0"].tolist() == [True, False, True]
