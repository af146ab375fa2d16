"""The checkpoints of our own runs as pretraining: read like the encoder file or the bundle that the run ends with."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from finetune import __main__ as finetune_program
from medpretrain3d import cli
from medpretrain3d.backbones import ResEnc, read_encoder, save_encoder
from medpretrain3d.backbones.checkpoints.release import restrictions
from medpretrain3d.errors import UserError
from pretrain import __main__ as pretrain_program
from tests.tiny_objectives import TINY_OBJECTIVES, tiny_objective

from .conftest import TINY_FINETUNE, TINY_PRETRAIN

PRODUCTS = {"pretrain": "encoder", "finetune": "bundle"}


@pytest.fixture(scope="module")
def runs(cube_store, tmp_path_factory):
    """A finished run of each stage, both with averaged weights."""
    root = tmp_path_factory.mktemp("runs")
    averaged = """[{class_path: lightning.pytorch.callbacks.EMAWeightAveraging, init_args: {decay: 0.5}}]"""
    place = ["--data.store", str(cube_store), "--run.root", str(root), "--run.group", "g", "--trainer.max_steps", "3"]
    pretrain_program.main(["fit", *TINY_PRETRAIN, *place, "--run.name", "pretrain", "--trainer.callbacks", averaged])
    finetune_program.main(["fit", *TINY_FINETUNE, *place, "--run.name", "finetune"])
    return root / "g"


@pytest.mark.parametrize("stage", PRODUCTS)
def test_a_checkpoint_holds_the_encoder_that_the_run_ends_with(runs, stage, tmp_path):
    product = read_encoder(runs / stage / PRODUCTS[stage])
    unfinished = shutil.copytree(runs / stage, tmp_path / "run", ignore=shutil.ignore_patterns(PRODUCTS[stage]))
    for source in (unfinished, unfinished / "checkpoints", unfinished / "checkpoints" / "last.ckpt"):
        encoder = read_encoder(source)
        assert encoder.architecture == product.architecture
        assert encoder.weights.keys() == product.weights.keys()
        assert all(torch.equal(product.weights[name], value) for name, value in encoder.weights.items())
        assert encoder.card["preprocessing"] == product.card["preprocessing"]
        assert encoder.card["pretraining"]["steps"] == 3
        for key in ("method", "paradigm", "corpus", "data_fingerprint"):
            assert encoder.card["pretraining"][key] == product.card["pretraining"][key]


@pytest.mark.parametrize("stage", PRODUCTS)
def test_commands_read_a_checkpoint(runs, stage, tmp_path, capsys):
    checkpoint = runs / stage / "checkpoints" / "last.ckpt"
    assert cli.main(["inspect", str(checkpoint)]) == 0
    assert "medpretrain3d checkpoint of a run, step 3" in capsys.readouterr().out
    assert cli.main(["export", str(checkpoint), "-o", str(tmp_path / "out")]) == 0
    exported, product = read_encoder(tmp_path / "out"), read_encoder(runs / stage / PRODUCTS[stage])
    assert all(torch.equal(product.weights[name], value) for name, value in exported.weights.items())


def test_a_checkpoint_says_where_its_weights_began_and_what_is_not_known_of_it(cube_store, tmp_path):
    card = {"licence": "cc-by-nc-4.0", "restriction": "nothing is sold", "citations": ["A."], "pretraining": {}}
    save_encoder(tmp_path / "released", ResEnc("XXS"), card)
    place = ["--data.store", str(cube_store), "--run.root", str(tmp_path), "--run.group", "g", "--run.name", "f"]
    start = ["--model.init_from", str(tmp_path / "released"), "--trainer.max_steps", "3"]
    finetune_program.main(["fit", *TINY_FINETUNE, *place, *start])
    run = tmp_path / "g" / "f"
    of_bundle, of_checkpoint = (read_encoder(run / name).card for name in ("bundle", "checkpoints/last.ckpt"))
    assert of_checkpoint["continued_from"] == of_bundle["continued_from"]
    assert restrictions(of_checkpoint) == ["nothing is sold"]
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert facts["num_pretrain_volumes"] is None


def test_the_newest_checkpoint_of_a_folder_is_meant(runs, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    state = torch.load(runs / "pretrain" / "checkpoints" / "last.ckpt", weights_only=True)
    for step in (9, 10):
        torch.save({**state, "global_step": step}, folder / f"step_{step}.ckpt")
    assert read_encoder(folder.parent).card["pretraining"]["steps"] == 10
    assert read_encoder(folder / "step_9.ckpt").card["pretraining"]["steps"] == 9


def test_a_checkpoint_of_an_earlier_version_is_refused_with_what_to_do(runs, tmp_path):
    state = torch.load(runs / "pretrain" / "checkpoints" / "last.ckpt", weights_only=True)
    del state["encoder"]
    torch.save(state, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="of an earlier version, which does not say what it holds; call the run again"):
        read_encoder(tmp_path / "last.ckpt")


@pytest.mark.parametrize("cls", TINY_OBJECTIVES)
def test_every_objective_holds_its_backbone_where_checkpoints_say(cls):
    objective = tiny_objective(cls)
    named = {name.removeprefix("backbone.") for name in objective.state_dict() if name.startswith("backbone.")}
    assert named == objective.backbone.state_dict().keys()
