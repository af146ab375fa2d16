"""What was tested on is not trained on, and where somebody asked for it, everything that follows says so."""

from __future__ import annotations

import json

import pytest

from finetune import __main__ as finetune
from medpretrain3d import cli
from medpretrain3d.backbones import ResEnc, VolumesSeen, read_encoder, save_encoder
from medpretrain3d.errors import UserError
from medpretrain3d.store.corpus import CaseRef
from medpretrain3d.store.store import Store
from pretrain import __main__ as pretrain

from .conftest import TINY_FINETUNE, TINY_PRETRAIN

FEW = ("--trainer.max_steps", "3")


@pytest.fixture(scope="module")
def fit_encoder(cube_store, tmp_path_factory):
    """Pretrain on the cubes; returns the encoder."""
    root = tmp_path_factory.mktemp("encoders")

    def run(name, *arguments):
        place = ["--data.store", str(cube_store), "--run.root", str(root), "--run.group", "g", "--run.name", name]
        pretrain.main(["fit", *TINY_PRETRAIN, *place, *FEW, *arguments])
        return root / "g" / name / "encoder"

    return run


@pytest.fixture
def fit_detector(cube_store, tmp_path):
    def run(encoder, *arguments, name="run"):
        place = ["--data.store", str(cube_store), "--run.root", str(tmp_path), "--run.group", "g", "--run.name", name]
        start = ["--model.init_from", str(encoder)] if encoder else []
        finetune.main(["fit", *TINY_FINETUNE, *place, *FEW, *start, *arguments])
        return tmp_path / "g" / name

    return run


def facts_of(folder):
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def voxels(store, *case_ids):
    return {case_id: CaseRef(Store(store), case_id).voxels for case_id in case_ids}


SUPERVISED = [
    *("--model.objective", '{"class_path": "medpretrain3d.objectives.MultiTalent", "init_args": {"backbone": '),
    *("--data.views", '{"class_path": "medpretrain3d.loading.views.LabeledView"}'),
]
SUPERVISED[1] += '{"class_path": "medpretrain3d.backbones.ResEnc", "init_args": {"preset": "XXS"}}}}'
EVERYTHING = ("--data.split", "all", "--data.num_val_cases", "0")


@pytest.fixture(scope="module")
def of_everything(fit_encoder):
    return fit_encoder("everything", *EVERYTHING)


def test_by_default_no_test_case_is_pretrained_on_and_the_report_says_so(
    fit_encoder, fit_detector, cube_store, capsys, tmp_path
):
    encoder = fit_encoder("default", "--data.split", "null")
    seen = VolumesSeen.of_encoder(read_encoder(encoder))
    assert len(seen.without_labels) == 3  # 4 training cases, 1 held out
    assert seen.among(voxels(cube_store, "test_0", "test_1", "val_0", "val_1")) == []
    assert "TEST CASES" not in capsys.readouterr().out
    folder = fit_detector(encoder)
    assert capsys.readouterr().out.count("seen in pretraining: 0 of 2 test scans, 0 of 2 validation scans") == 2
    facts = facts_of(folder)
    assert (facts["num_test_cases_seen"], facts["num_val_cases_seen"]) == (0, 0)
    assert cli.main(["report", str(tmp_path), "-o", str(tmp_path / "report.html")]) == 0
    assert "g/run: the pretraining saw 0 of 2 test scans and 0 of 2 validation scans." in capsys.readouterr().out


def test_test_cases_that_were_pretrained_on_are_counted_wherever_the_weights_go(
    of_everything, fit_encoder, fit_detector, capsys, tmp_path
):
    folder = fit_detector(of_everything)
    assert "seen in pretraining: 2 of 2 test scans, 2 of 2 validation scans" in capsys.readouterr().out
    facts = facts_of(folder)
    assert (facts["num_test_cases_seen"], facts["num_val_cases_seen"]) == (2, 2)
    assert facts["num_test_cases_seen_with_labels"] == 0
    # Continued elsewhere, it is still known what the weights saw first.
    later = fit_encoder("later", "--model.init_from", str(of_everything))
    assert len(VolumesSeen.of_encoder(read_encoder(later))) == 8
    # And in the detector's bundle, whose training cases were seen with labels.
    seen = VolumesSeen.of_encoder(read_encoder(folder / "bundle"))
    assert (len(seen), len(seen.with_labels)) == (8, 4)
    for kind in ("safetensors", "nnssl"):
        assert cli.main(["export", str(of_everything), "-o", str(tmp_path / kind), "--format", kind]) == 0
        assert len(VolumesSeen.of_encoder(read_encoder(tmp_path / kind))) == 8
    assert cli.main(["report", str(tmp_path), "-o", str(tmp_path / "report.html")]) == 0
    assert "g/run: the pretraining saw 2 of 2 test scans and 2 of 2 validation scans." in capsys.readouterr().out


def test_asking_for_all_cases_is_said_loudly(of_everything, fit_encoder, capsys):
    fit_encoder("loud", *EVERYTHING)
    assert "TEST CASES ARE TRAINED ON: 2 test and 2 validation cases are among its 8" in capsys.readouterr().out


def test_labels_of_a_test_scan_in_pretraining_are_refused_unless_asked_for(fit_encoder, fit_detector, capsys):
    encoder = fit_encoder("supervised", *SUPERVISED, *EVERYTHING)
    with pytest.raises(
        UserError,
        match=r"2 of 2 test scans and 2 of 2 validation scans were pretrained on with labels.*allow_seen_scans",
    ):
        fit_detector(encoder, name="refused")
    folder = fit_detector(encoder, "--model.allow_seen_scans", "true", name="allowed")
    assert facts_of(folder)["num_test_cases_seen_with_labels"] == 2
    assert "allowed, but no test of new scans" in capsys.readouterr().out
    fit_detector(fit_encoder("supervised_default", *SUPERVISED), name="fine")


def test_a_detector_s_training_cases_are_refused_as_another_s_test(fit_detector, cube_store, tmp_path):
    bundle = fit_detector(None, name="first") / "bundle"
    splits = {"train": ["test_0", "test_1"], "val": ["val_0", "val_1"], "test": [f"train_{n}" for n in range(4)]}
    other = tmp_path / "other"
    other.mkdir()
    for path in cube_store.iterdir():
        (other / path.name).symlink_to(path)
    (other / "splits.json").unlink()
    (other / "splits.json").write_text(json.dumps(splits))
    with pytest.raises(UserError, match="4 of 4 test scans and 0 of 2 validation scans were pretrained on with labels"):
        fit_detector(bundle, "--data.store", str(other), name="second")


def test_weights_that_list_no_scans_are_called_unknown(fit_detector, capsys, tmp_path):
    save_encoder(tmp_path / "older", ResEnc("XXS"), {})
    folder = fit_detector(tmp_path / "older")
    assert "not known whether test or validation scans were seen in pretraining" in capsys.readouterr().out
    facts = facts_of(folder)
    assert (facts["num_test_cases_seen"], facts["is_pretraining_data_known"]) == (None, False)
    assert cli.main(["report", str(tmp_path), "-o", str(tmp_path / "report.html")]) == 0
    assert "g/run: it is not known how many test and validation scans the pretraining saw" in capsys.readouterr().out
