"""What the same weights see in the same volume is computed once, whatever comes between."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from finetune import __main__ as program
from finetune import validation_detections
from finetune.finished_volumes import FinishedVolumes
from finetune.module import FinetuneModule
from medpretrain3d import cli
from medpretrain3d.errors import UserError
from medpretrain3d.inference import InferenceConfig, Predictor, RawDetections, load_bundle, load_members
from medpretrain3d.inference.cached_detections import CachedDetections
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.store import Store

from .conftest import TINY_FINETUNE, write_cubes
from .sittings import run_sitting
from .test_resume import BATCH_NORM, outcome

VAL, TEST = ["val_0", "val_1"], ["test_0", "test_1"]


@pytest.fixture
def looks(monkeypatch) -> list[str]:
    """The volumes that are sent through the network, in their order."""
    seen: list[str] = []
    detect = FinetuneModule.detect_raw

    def counted(self, case):
        seen.append(case.id)
        return detect(self, case)

    monkeypatch.setattr(FinetuneModule, "detect_raw", counted)
    return seen


@pytest.fixture
def fit(cube_store, tmp_path):
    def run(*arguments: str, name: str = "run"):
        place = ["--data.store", str(cube_store), "--run.root", str(tmp_path), "--run.group", "g", "--run.name", name]
        program.main(["fit", *TINY_FINETUNE, *place, *arguments])
        return tmp_path / "g" / name

    return run


def kept(folder):
    return folder / "validation" / "sightings.safetensors"


def check_of_the_bundle(folder, cube_store):
    """What is kept is what the bundle sees."""
    bundle = load_bundle(folder / "bundle")
    predictor = Predictor(bundle, "cpu")
    found = CachedDetections.load(kept(folder))
    opened = [ref.open() for ref in Corpus([cube_store]).cases("val")]
    assert [one.case for one in found.cases] == [case.id for case in opened] == VAL
    for one, case in zip(found.cases, opened, strict=True):
        again = predictor.detect_raw(case, case.id)
        assert len(again)
        for field in ("boxes", "scores", "labels"):
            assert torch.equal(getattr(one.raw_detections.detections, field), getattr(again.detections, field))
        for field in ("border_distance", "touches_face", "view", "views"):
            assert torch.equal(getattr(one.raw_detections, field), getattr(again, field))


def test_the_closing_takes_what_the_last_validation_saw_in_this_sitting_or_an_earlier_one(
    fit, looks, cube_store, monkeypatch
):
    whole = fit(name="whole")
    assert looks == [*VAL, *VAL, *TEST]
    check_of_the_bundle(whole, cube_store)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("finetune.cli.finalize", killed)
        with pytest.raises(KeyboardInterrupt):
            fit(name="cut")
    del looks[:]
    cut = fit(name="cut")
    assert looks == TEST
    assert kept(cut).read_bytes() == kept(whole).read_bytes()
    # Averaged weights close both.
    weights, again = (load_bundle(folder / "bundle").detector.state_dict() for folder in (whole, cut))
    assert all(torch.equal(value, again[name]) for name, value in weights.items())


def test_a_run_killed_at_the_end_of_its_last_validation_looks_at_nothing_again(fit, looks, cube_store, monkeypatch):
    def killed(self):
        if self.trainer.global_step == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FinetuneModule, "on_validation_epoch_end", killed)
        with pytest.raises(SystemExit):
            fit()
    del looks[:]
    folder = fit()
    assert looks == TEST
    check_of_the_bundle(folder, cube_store)


@pytest.mark.parametrize(
    ("options", "closing"),
    [
        (["--trainer.max_steps", "7", "--trainer.callbacks", "[]"], VAL),  # the last one saw the weights of step 6
        (["--trainer.limit_val_batches", "1"], VAL[1:]),
    ],
)
def test_what_the_last_validation_did_not_see_is_looked_at_in_the_closing(fit, looks, cube_store, options, closing):
    folder = fit(*options)
    assert looks[-len(closing) - 2 :] == [*closing, *TEST]
    assert len(looks) == {"7": 8, "1": 5}[options[1]]
    check_of_the_bundle(folder, cube_store)


@pytest.mark.slow
def test_two_processes_with_batch_norms_keep_and_test_what_the_bundle_sees(cube_store, tmp_path):
    place = ["--data.store", str(cube_store), "--run.root", str(tmp_path), "--run.group", "g", "--run.name", "run"]
    network = ["--model.detector.init_args.backbone", json.dumps(BATCH_NORM), "--data.patch", "[32,32,32]"]
    steps = ["--trainer.max_steps", "4", "--trainer.callbacks", "[]"]  # the validation of step 3 was of other weights
    run_sitting(tmp_path, "finetune", *TINY_FINETUNE, *place, *network, *steps, num_processes=2)
    folder = tmp_path / "g" / "run"
    check_of_the_bundle(folder, cube_store)
    predictor = Predictor(load_bundle(folder / "bundle"), "cpu")
    found = json.loads((folder / "test" / "predictions.json").read_text(encoding="utf-8"))["predictions"]
    assert [one["case"] for one in found] == TEST
    for one in found:
        again = predictor.predict(Store(cube_store).case(one["case"]), one["case"])
        np.testing.assert_allclose(one["scores"], again.scores, atol=1e-5)
        np.testing.assert_allclose(one["boxes_vox"], again.boxes_vox, atol=1e-2)


def test_weights_buffers_settings_precision_and_device_decide_what_is_seen():
    def digest(change=lambda net: None, overlap=0.5, patch=8, precision="32-true", device="cpu"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2))
        with torch.no_grad():
            change(net)
        preprocessing = SimpleNamespace(to_json=lambda: {"patch": [patch] * 3})
        data = SimpleNamespace(preprocessing=lambda: preprocessing)
        module = SimpleNamespace(detector=net, inference=InferenceConfig(overlap=overlap), data=data)
        strategy = SimpleNamespace(root_device=torch.device(device))
        return validation_detections.made_by(SimpleNamespace(precision=precision, strategy=strategy), module)

    assert digest() == digest()
    others = [
        digest(lambda net: net[0].weight[0].add_(1e-6)),
        digest(lambda net: net[1].running_mean.add_(1)),
        digest(lambda net: net[1].num_batches_tracked.add_(1)),
        digest(lambda net: net.to(torch.bfloat16)),
        digest(overlap=0.25),
        digest(patch=16),
        digest(precision="bf16-mixed"),
        digest(device="cuda"),
    ]
    assert len({digest(), *others}) == 1 + len(others)


def test_a_fold_is_tested_on_what_its_validation_saw_and_the_folds_are_one_result(looks, tmp_path, capsys):
    store = write_cubes(tmp_path / "store", {"train": 6})
    assert cli.main(["split", str(store), "--folds", "3"]) == 0
    folds = Store(store).all_splits.folds
    place = ["--data.store", str(store), "--run.root", str(tmp_path), "--run.group", "cv"]
    words = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--data.test_on", "held_out"]
    found = {}
    for number in range(3):
        run = ["--data.fold", str(number), "--run.name", f"fold_{number}"]
        program.main(["fit", *TINY_FINETUNE, *place, *words, *run])
        test = json.loads((tmp_path / "cv" / f"fold_{number}" / "test" / "predictions.json").read_text())
        found |= {one["case"]: one for one in test["predictions"]}
    assert looks == [case for fold in folds for case in fold["val"]]  # once each, for validation, closing and test
    assert cli.main(["cross-validate", str(tmp_path / "cv"), "-o", str(tmp_path / "out"), "--no-tune"]) == 0
    pooled = json.loads((tmp_path / "out" / "predictions.json").read_text())["predictions"]
    assert {one["case"]: one for one in pooled} == found
    assert len(pooled) == 6
    assert len(load_members(tmp_path / "out" / "ensemble")) == 3
    assert "mean ± std" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"2 cases validate and are tested \(data.test_on held_out\)"):
        program.main(["fit", *TINY_FINETUNE, *place, *words, "--data.fold", "0", "--model.weights", "best"])


def test_a_validation_and_a_test_that_are_cut_go_on_behind_the_volumes_they_have_seen(fit, looks, monkeypatch):
    undisturbed = outcome(fit(name="whole"))
    assert looks == [*VAL, *VAL, *TEST]
    looks.clear()
    cuts = [1, 3, 5]  # behind the first volume of each validation and of the test
    detect = FinetuneModule.detect_raw

    def cut(self, case):
        if cuts and len(looks) == cuts[0]:
            cuts.pop(0)
            raise SystemExit(143)
        return detect(self, case)

    monkeypatch.setattr(FinetuneModule, "detect_raw", cut)
    for _ in range(3):
        with pytest.raises(SystemExit):
            fit(name="cut")
    folder = fit(name="cut")
    assert (cuts, looks) == ([], [*VAL, *VAL, *TEST])
    assert outcome(folder) == undisturbed
    assert [path.name for path in (folder / "validation").iterdir()] == ["sightings.safetensors"]


def test_volumes_of_other_weights_or_half_written_are_looked_at_again(cube_store, tmp_path):
    case = Store(cube_store).case("val_0")
    seen = RawDetections.cat([])
    volumes = FinishedVolumes(tmp_path / "volumes")
    volumes.begin("these weights")
    assert volumes.load(case) is None
    volumes.save(case, seen, ["cube"], InferenceConfig())
    assert len(volumes.load(case)) == 0
    assert volumes.load(Store(cube_store).case("val_1")) is None
    volumes.begin("other weights")
    assert volumes.load(case) is None
    volumes.begin("these weights")
    (file,) = volumes.folder.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert volumes.load(case) is None
    volumes.remove()
    assert not volumes.folder.exists()
