"""`medpretrain3d test`: a labelled data set in one command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from medpretrain3d.backbones import ResEnc
from medpretrain3d.cli import main
from medpretrain3d.commands import predict
from medpretrain3d.detection import FCOS
from medpretrain3d.evaluation.detection import MAP_KEY
from medpretrain3d.inference import InferenceConfig, save_bundle
from medpretrain3d.store import Preprocessing
from tests.ingest.miniatures import mask, nifti, scan


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """An untrained detector of two classes that keeps every box."""
    torch.manual_seed(0)
    detector = FCOS(ResEnc("XXS"), num_classes=2, fpn_channels=16, head_convs=1)
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    config = InferenceConfig(score_threshold=0.0)
    save_bundle(folder, detector, ["cyst", "nodule"], Preprocessing(patch=(16, 16, 16)), config)
    return folder


def labeled_set(raw, classes, suffix="Ts"):
    for number, case in enumerate("ab"):
        nifti(raw / f"images{suffix}/{case}_0000.nii.gz", scan(number))
        nifti(raw / f"labels{suffix}/{case}.nii.gz", mask())
    labels = {"background": 0, **{name: value + 1 for value, name in enumerate(classes)}}
    training = [{"image": "./imagesTr/elsewhere.nii.gz", "label": "./labelsTr/elsewhere.nii.gz"}]
    (raw / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "labels": labels, "training": training})
    )
    return raw


def test_a_folder_of_test_images_and_labels_alone(bundle, tmp_path, capsys):
    raw, out = labeled_set(tmp_path / "raw", ["nodule"]), tmp_path / "out"
    assert main(["test", str(bundle), str(raw), "-o", str(out)]) == 0
    told = capsys.readouterr().out
    assert "training cases of dataset.json, which a test set does without: 1 (elsewhere)" in told
    assert "none of the" not in told
    predictions = json.loads((out / "predictions.json").read_text())
    targets = json.loads((out / "targets.json").read_text())
    metrics = json.loads((out / "metrics.json").read_text())
    assert predictions["classes"] == ["cyst", "nodule"]
    assert [one["case"] for one in targets["targets"]] == ["a", "b"]
    assert (metrics["num_cases"], metrics["num_targets"], metrics["classes"]) == (2, {"nodule": 2}, ["nodule"])
    num_cysts = sum(one["labels"].count(0) for one in predictions["predictions"])
    num_all = sum(len(one["labels"]) for one in predictions["predictions"])
    assert metrics["test"] == {
        "split": "test",
        "fold": None,
        "classes_not_tested": ["cyst"],
        "num_boxes_not_tested": num_cysts,
    }
    assert 0 < num_cysts < num_all
    assert metrics["num_predictions"] == num_all - num_cysts
    assert f"the data do not name cyst: {num_cysts} boxes" in told
    assert (out / "metrics.csv").read_text().count("\n") == 3
    before = (out / "metrics.json").read_bytes()
    assert main(["test", str(bundle), str(out / "store"), "-o", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "metrics.json").read_bytes() == before


def test_a_set_of_other_names_needs_to_be_told(bundle, tmp_path, capsys):
    raw = labeled_set(tmp_path / "raw", ["lesion"])
    assert main(["test", str(bundle), str(raw), "-o", str(tmp_path / "out")]) == 2
    assert "names lesion, the bundle finds cyst, nodule; say which is which with --rename" in capsys.readouterr().err
    assert not (tmp_path / "out" / "predictions.json").exists()
    for text, message in [("lesion", "wanted OLD=NEW"), ("tumor=nodule", "the data have no class 'tumor'")]:
        assert main(["test", str(bundle), str(raw), "-o", str(tmp_path / "out"), "--rename", text]) == 2
        assert message in capsys.readouterr().err
    assert main(["test", str(bundle), str(raw), "-o", str(tmp_path / "out"), "--rename", "lesion=nodule"]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["num_targets"] == {"nodule": 2}
    assert MAP_KEY in metrics


@pytest.mark.parametrize("typed", [[], ["--precision", "32-true", "--batch-size", "2"]])
def test_scans_are_predicted_as_by_predict(bundle, tmp_path, monkeypatch, typed):
    asked = []
    monkeypatch.setattr(predict, "run", lambda args: asked.append((args.precision, args.batch_size)) or 1)
    main(["test", str(bundle), str(labeled_set(tmp_path / "raw", ["nodule"])), "-o", str(tmp_path / "out"), *typed])
    assert asked == [("32-true", 2) if typed else (None, None)]  # else what suits the device


@pytest.mark.parametrize("how", ["table", "pattern"])
def test_of_a_folder_it_may_be_said_which_scans_are_of_one_patient(bundle, tmp_path, capsys, how):
    raw, out, table = labeled_set(tmp_path / "raw", ["nodule"]), tmp_path / "out", tmp_path / "people.csv"
    table.write_text("case,person\na,p1\nb,p1\n")
    words = {"table": ["--patients", str(table), "--patient-column", "person"], "pattern": ["--patient-pattern", "(.)"]}
    known = {"table": ["p1", "p1"], "pattern": ["a", "b"]}[how]
    assert main(["test", str(bundle), str(raw), "-o", str(out), *words[how]]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["num_cases"], metrics["num_patients"]) == (2, len(set(known)))
    targets = json.loads((out / "targets.json").read_text())["targets"]
    assert [one["patient"] for one in targets] == known
    assert main(["test", str(bundle), str(out / "store"), "-o", str(tmp_path / "again"), *words[how]]) == 2
    assert f"{words[how][0]} is of a folder of a labelled data set" in capsys.readouterr().err


def test_of_a_store_the_split_may_be_chosen(bundle, tmp_path, capsys):
    raw = labeled_set(tmp_path / "raw", ["cyst", "nodule"], "Tr")
    (raw / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "cyst": 1, "nodule": 2}}))
    (raw / "splits.json").write_text(json.dumps([{"train": ["a"], "val": ["b"]}]))
    assert main(["prepare", str(raw), str(tmp_path / "store")]) == 0
    for words, cases in [([], ["a", "b"]), (["--split", "val", "--fold", "0"], ["b"])]:
        assert main(["test", str(bundle), str(tmp_path / "store"), "-o", str(tmp_path / "out"), *words]) == 0
        targets = json.loads((tmp_path / "out" / "targets.json").read_text())["targets"]
        assert [one["case"] for one in targets] == cases
    capsys.readouterr()


def test_two_data_sets_or_none_are_refused(bundle, tmp_path, capsys):
    assert main(["test", str(bundle), str(tmp_path), str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "a second data set; test one after the other" in capsys.readouterr().err
    assert main(["test", str(bundle), str(tmp_path / "gone"), "-o", str(tmp_path / "out")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_scans_without_annotations_are_no_negatives(bundle, tmp_path, capsys):
    raw, out = labeled_set(tmp_path / "raw", ["nodule"], "Tr"), tmp_path / "out"
    document = json.loads((raw / "dataset.json").read_text())
    training = [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in "ab"]
    (raw / "dataset.json").write_text(json.dumps({**document, "training": training}))
    nifti(raw / "imagesTs/c_0000.nii.gz", scan(2))
    assert main(["prepare", str(raw), str(tmp_path / "store")]) == 0
    capsys.readouterr()
    assert main(["test", str(bundle), str(tmp_path / "store"), "-o", str(out)]) == 0
    assert "1 case without annotations left out, first 'c'" in capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["num_cases"], metrics["test"]["num_unlabeled_left_out"]) == (2, 1)
    file = str(tmp_path / "targets.json")
    assert main(["targets", str(tmp_path / "store"), "--split", "all", "-o", file]) == 0
    assert "2 cases" in (told := capsys.readouterr().out)
    assert "1 case without annotations left out" in told
    for command in (["test", str(bundle), str(tmp_path / "store")], ["targets", str(tmp_path / "store")]):
        assert main([*command, "--split", "unlabeled", "-o", str(tmp_path / "no")]) == 2
        assert "its scans have no annotations" in capsys.readouterr().err


def test_a_folder_is_read_by_the_options_that_prepare_had_for_the_data_of_training(bundle, tmp_path, capsys):
    # The advice of `prepare` on such a folder was an option that `test` did not have.
    values = mask().astype(np.uint8)
    values[-6:-4, -6:-4, -6:-4] = 7
    values[0, 0, 0] = 9
    for number, case in enumerate("ab"):
        nifti(tmp_path / f"raw/{case}_ct.nii.gz", scan(number))
        nifti(tmp_path / f"raw/{case}_seg.nii.gz", values)
    words = ["test", str(bundle), str(tmp_path / "raw"), "-o", str(tmp_path / "out")]
    assert main([*words, "--rename", "object=nodule"]) == 2
    assert "--objects instances" in capsys.readouterr().err
    told = ["--objects", "instances", "--option", "classes=nodule"]
    for more, num_each in ([], 3), (["--min-voxels", "2"], 2):
        assert main([*words, *told, *more]) == 0
        targets = json.loads((tmp_path / "out" / "targets.json").read_text())
        assert targets["classes"] == ["nodule"]
        assert [len(one["labels"]) for one in targets["targets"]] == [num_each] * 2
    assert main([*words, *told, "--as-points", "--intensity", "hu"]) == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["protocol"] == "centre"
    capsys.readouterr()
    store = ["test", str(bundle), str(tmp_path / "out" / "store"), "-o", str(tmp_path / "no")]
    for option in (["--min-voxels", "2"], ["--as-points"], ["--option", "classes=nodule"]):
        assert main([*store, *option]) == 2
        assert f"{option[0]} is of a folder of a labelled data set" in capsys.readouterr().err
