from __future__ import annotations

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch

from medpretrain3d.boxes import Detections, Targets
from medpretrain3d.cli import main
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import mean_average_precision
from medpretrain3d.inference import InferenceConfig, RawDetections, load_bundle, merge_raw_detections, save_bundle
from medpretrain3d.inference.cached_detections import CachedCase, CachedDetections
from medpretrain3d.inference.sweep import best, sweep
from medpretrain3d.ingest.prepare import prepare
from medpretrain3d.store.preprocessing import Preprocessing


def score(found, targets):
    return mean_average_precision(found, targets, ("one",))


def cached_case(boxes, scores, target_boxes, case="a", labels=None):
    found = Detections(
        torch.tensor(boxes).float().reshape(-1, 6), torch.tensor(scores), torch.zeros(len(scores)).long()
    )
    raw_detections = RawDetections.in_tile(found, (0, 0, 0), (16, 16, 16), (16, 16, 16))
    targets = Targets(torch.tensor(target_boxes).float().reshape(-1, 6), torch.zeros(len(target_boxes)).long())
    return CachedCase(case, (1.0, 1.0, 1.0), raw_detections, targets)


def two_neighbours():
    """Two true objects with IoU 1/3, each seen once: suppression at 0.3 loses one of them."""
    boxes = [[0, 0, 0, 4, 4, 4], [2, 0, 0, 6, 4, 4]]
    return cached_case(boxes, [0.9, 0.8], boxes)


def test_the_sweep_finds_the_overlap_that_keeps_neighbours_apart():
    trials = sweep([two_neighbours()], InferenceConfig(), score)
    assert trials[0].config == InferenceConfig()
    assert trials[0].score < 0.6
    assert best(trials).score == pytest.approx(1.0)
    assert best(trials).config == InferenceConfig(nms_iou=0.4)  # the first that keeps both; nothing else is changed


def test_small_false_findings_are_swept_away():
    case = cached_case([[0, 0, 0, 1, 1, 1], [8, 8, 8, 12, 12, 12]], [0.9, 0.8], [[8, 8, 8, 12, 12, 12]])
    trials = sweep([case], InferenceConfig(), score)
    assert best(trials).config == InferenceConfig(min_size_mm=2.0)


def test_what_is_already_best_stays():
    box = [[8, 8, 8, 12, 12, 12]]
    start = InferenceConfig(merge="wbc", nms_iou=0.25, overlap=0.6, mirror_axes=(1,))
    assert best(sweep([cached_case(box, [0.9], box)], start, score)).config == start


def test_scores_that_were_not_kept_are_not_tried():
    start = InferenceConfig(score_threshold=0.1)
    trials = sweep([two_neighbours()], start, score)
    assert {trial.config.score_threshold for trial in trials} == {0.1, 0.2}


def test_every_trial_is_what_prediction_would_give():
    cases = [two_neighbours()]
    for trial in sweep(cases, InferenceConfig(), lambda found, _: float(len(found[0]))):
        assert trial.score == len(merge_raw_detections(cases[0].raw_detections, trial.config))


def test_scans_without_objects_cannot_be_chosen_by():
    with pytest.raises(UserError, match="1 validation scans without a single object"):
        sweep([cached_case([[0, 0, 0, 1, 1, 1]], [0.9], [])], InferenceConfig(), score)


def test_sightings_come_back_from_their_file(tmp_path):
    cases = (
        two_neighbours(),
        cached_case([], [], [[0, 0, 0, 1, 1, 1]], "b"),
        cached_case([[0, 0, 0, 9, 9, 9]], [0.5], [], "c"),
    )
    config = InferenceConfig(mirror_axes=(0, 2))
    CachedDetections(("one",), config, cases).save(tmp_path / "new" / "seen.safetensors")
    again = CachedDetections.load(tmp_path / "new" / "seen.safetensors")
    assert (again.classes, again.inference) == (("one",), config)
    for ours, theirs in zip(again.cases, cases, strict=True):
        assert (ours.case, ours.spacing_mm) == (theirs.case, theirs.spacing_mm)
        for name in ("boxes", "scores", "labels"):
            assert torch.equal(
                getattr(ours.raw_detections.detections, name), getattr(theirs.raw_detections.detections, name)
            )
        for name in ("border_distance", "touches_face", "view", "views"):
            assert torch.equal(getattr(ours.raw_detections, name), getattr(theirs.raw_detections, name))
        assert torch.equal(ours.targets.boxes, theirs.targets.boxes)
        assert torch.equal(ours.targets.labels, theirs.targets.labels)


@pytest.mark.parametrize(("content", "message"), [(None, "no such file"), (b"nonsense", "not readable as sightings")])
def test_a_file_without_sightings_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "seen.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=message):
        CachedDetections.load(tmp_path / "seen.safetensors")


def write_labelled(raw, shape=(16, 16, 16)):
    for folder, array in {
        "imagesTr/a_0000.nii.gz": np.random.default_rng(0).integers(-900, 300, shape).astype(np.int16),
        "labelsTr/a.nii.gz": np.pad(np.ones((6, 6, 6), np.uint8), 5),
    }.items():
        (raw / folder).parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, -1, 1, 1])), raw / folder)
    about = {
        "labels": {"background": 0, "nodule": 1},
        "channel_names": {"0": "CT"},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(about))


def test_the_command_looks_once_and_stores_its_choice(tiny_detector, tmp_path, capsys):
    write_labelled(tmp_path / "raw")
    prepare([tmp_path / "raw"], tmp_path / "store", progress=False)
    bundle = tmp_path / "run" / "bundle"
    config = InferenceConfig(score_threshold=0.0)
    save_bundle(bundle, tiny_detector, ["nodule"], Preprocessing((16, 16, 16)), config, {"licence": "none"})
    assert main(["tune", str(bundle)]) == 2
    assert "--store" in capsys.readouterr().err
    before = load_bundle(bundle)
    assert main(["tune", str(bundle), "--store", str(tmp_path / "store"), "--split", "all", "--device", "cpu"]) == 0
    kept = tmp_path / "run" / "validation" / "sightings.safetensors"
    first = kept.read_bytes()
    assert main(["tune", str(bundle)]) == 0
    assert kept.read_bytes() == first
    after = load_bundle(bundle)
    assert after.provenance["tuning"]["mAP"] >= after.provenance["tuning"]["mAP_before"]
    assert after.provenance["licence"] == "none"
    assert after.inference.overlap == before.inference.overlap
    assert after.sha256 != before.sha256
    assert before.operating_points is None
    assert after.operating_points.num_scans == 1


def test_a_bundle_whose_run_was_scored_by_distance_is_tuned_by_it(tiny_detector, tmp_path, capsys):
    write_labelled(tmp_path / "raw")
    prepare([tmp_path / "raw"], tmp_path / "store", progress=False)
    bundle, config = tmp_path / "run" / "bundle", InferenceConfig(score_threshold=0.0)
    training = {"training": {"protocol": "centre"}}
    save_bundle(bundle, tiny_detector, ["nodule"], Preprocessing((16, 16, 16)), config, training)
    assert main(["tune", str(bundle), "--store", str(tmp_path / "store"), "--split", "all", "--device", "cpu"]) == 0
    assert "AP_center" in capsys.readouterr().out
    after = load_bundle(bundle)
    assert after.provenance["tuning"]["AP_center"] >= after.provenance["tuning"]["AP_center_before"]
    assert after.operating_points.document["criterion"] == "radius"
    words = ["test", str(bundle), str(tmp_path / "store"), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert main(words) == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["protocol"] == "centre"


def test_what_another_detector_saw_is_refused_and_what_says_nothing_is_said(tiny_detector, tmp_path, capsys):
    write_labelled(tmp_path / "raw")
    prepare([tmp_path / "raw"], tmp_path / "store", progress=False)
    config, how = InferenceConfig(score_threshold=0.0), Preprocessing((16, 16, 16))
    save_bundle(tmp_path / "one" / "bundle", tiny_detector, ["nodule"], how, config)
    for parameter in tiny_detector.parameters():
        parameter.data += 0.01
    save_bundle(tmp_path / "two" / "bundle", tiny_detector, ["nodule"], how, config)
    look = ["--store", str(tmp_path / "store"), "--split", "all", "--device", "cpu"]
    assert main(["tune", str(tmp_path / "one" / "bundle"), *look]) == 0
    kept = tmp_path / "one" / "validation" / "sightings.safetensors"
    assert "does not say which weights" not in capsys.readouterr().err
    before = (tmp_path / "two" / "bundle" / "bundle.json").read_bytes()
    assert main(["tune", str(tmp_path / "two" / "bundle"), "--cached-detections", str(kept)]) == 2
    assert "give the sightings of this bundle" in capsys.readouterr().err
    assert (tmp_path / "two" / "bundle" / "bundle.json").read_bytes() == before
    replace(CachedDetections.load(kept), weights_sha256="").save(kept)  # as of an earlier version
    assert main(["tune", str(tmp_path / "two" / "bundle"), "--cached-detections", str(kept)]) == 0
    assert "does not say which weights saw these scans" in capsys.readouterr().err
