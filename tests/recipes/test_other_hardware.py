"""A run goes on on other devices, and with folders that have moved."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from finetune import __main__ as finetune_program
from medpretrain3d.backbones import ResEnc, read_encoder, save_encoder
from medpretrain3d.engine.continuation import accumulation_to_go_on, check_continuation
from medpretrain3d.engine.run import RunConfig
from medpretrain3d.errors import UserError
from medpretrain3d.run_metadata import RunMetadata
from pretrain import __main__ as program
from pretrain.module import PretrainModule

from .conftest import TINY_FINETUNE, TINY_PRETRAIN
from .sittings import sit
from .test_continued_configuration import CONSTANT
from .test_snapshots import fit as fit  # the fixture


def config(devices, accumulated=1, batch_size=4, **model):
    trainer = {"devices": devices, "num_nodes": 1, "accumulate_grad_batches": accumulated, "accelerator": "cpu"}
    return {
        "data": {"batch_size": batch_size, "store": "s"},
        "trainer": {**trainer, "max_steps": 9},
        "model": {"init_from": None, **model},
    }


@pytest.fixture
def interrupted(tmp_path):
    """A run of 8 devices with 4 samples each, of which 3 steps are made."""

    def begin(**metadata) -> RunConfig:
        run = RunConfig(root=str(tmp_path), group="g", name="r")
        run.checkpoints.mkdir(parents=True)
        (run.checkpoints / "step_0000003.ckpt").touch()
        (run.folder / "config.yaml").write_text(json.dumps(config(8)))
        (run.folder / "run.json").write_text(json.dumps({"data_fingerprint": "f", **metadata}))
        return run

    return begin


@pytest.mark.parametrize(
    ("now", "number"),
    [
        (config(4), 2),
        (config(1), 8),
        (config(4, batch_size=2), 4),
        (config(16), None),  # half a sample for each
        (config(3), None),
        (config(4, 2), None),  # as it should be
        (config(8), None),
        (config(8, batch_size=2), None),  # other samples on the same devices are asked for, and refused
    ],
)
def test_accumulation_makes_up_for_devices_that_are_not_there(interrupted, now, number):
    adapted = accumulation_to_go_on(interrupted(), now)
    assert (adapted[0] if adapted else None) == number
    if adapted:
        assert "a step of this run has 32 samples" in adapted[1]


def test_processes_that_the_first_one_starts_come_to_the_same_number(interrupted):
    run, now = interrupted(global_batch_size=32), config(4, batch_size=2)
    assert accumulation_to_go_on(run, now)[0] == 4
    (run.folder / "config.yaml").write_text(json.dumps(config(4, 4, batch_size=2)))  # by the first process
    assert accumulation_to_go_on(run, now)[0] == 4


def test_the_devices_that_a_machine_had_count_and_not_those_that_it_has(interrupted, monkeypatch):
    run, auto = interrupted(global_batch_size=32), config("auto")
    (run.folder / "config.yaml").write_text(json.dumps(auto))
    auto["trainer"]["accelerator"] = "cpu"  # one process, where there were eight
    number, _ = accumulation_to_go_on(run, auto)
    assert number == 8
    check_continuation(run, auto, config("auto", 8), RunMetadata(data_fingerprint="f"))
    with pytest.raises(UserError, match=r"samples of a step 32 -> 4, which data.batch_size x 1 processes x"):
        check_continuation(run, auto, auto, RunMetadata(data_fingerprint="f"))


def test_what_cannot_be_made_up_for_is_refused_with_what_to_set(interrupted):
    with pytest.raises(UserError) as caught:
        check_continuation(interrupted(), config(8), config(3), RunMetadata(data_fingerprint="f"))
    assert "trainer.devices 8 -> 3" in str(caught.value)
    assert (
        "samples of a step 32 -> 12, which data.batch_size x 3 processes x trainer.accumulate_grad_batches have"
        in str(caught.value)
    )


@pytest.mark.parametrize(
    ("now", "unlabeled", "refused"),
    [
        (config(4, 2), 2, False),
        (config(4, 1, batch_size=8), 4, False),
        (config(4, 1, batch_size=8), 2, True),
        (config(4, 1, batch_size=8), None, True),  # as many as with labels: 32
    ],
)
def test_a_step_has_as_many_unlabeled_crops_as_before(interrupted, now, unlabeled, refused):
    run, before = interrupted(global_batch_size=32), config(8)  # 8 processes with 2 unlabeled crops each
    before["data"] |= {"unlabeled": "u", "unlabeled_batch_size": 2}
    now["data"] |= {"unlabeled": "u", "unlabeled_batch_size": unlabeled}
    if not refused:
        check_continuation(run, before, now, RunMetadata())
        return
    made = 4 * (unlabeled or 8)
    with pytest.raises(UserError, match=rf"unlabeled crops of a step 16 -> {made}, which data.\w+ x 4"):
        check_continuation(run, before, now, RunMetadata())


def test_an_encoder_that_has_moved_is_known_by_its_weights(interrupted):
    run, before, now = interrupted(init_sha256="a" * 64), config(8, init_from="there"), config(8, init_from="here")
    check_continuation(run, before, now, RunMetadata(data_fingerprint="f", init_sha256="a" * 64))
    with pytest.raises(UserError, match=r"what is in model.init_from aaaaaaaaaaaa -> bbbbbbbbbbbb"):
        check_continuation(run, before, now, RunMetadata(data_fingerprint="f", init_sha256="b" * 64))


def test_hard_negatives_that_have_moved_are_known_by_their_file(interrupted):
    run, before, now = interrupted(hard_negatives_sha256="a" * 64), config(8), config(8)
    before["data"]["hard_negatives"], now["data"]["hard_negatives"] = "there", "here"
    check_continuation(run, before, now, RunMetadata(data_fingerprint="f", hard_negatives_sha256="a" * 64))
    with pytest.raises(UserError, match=r"what is in data.hard_negatives aaaaaaaaaaaa -> bbbbbbbbbbbb"):
        check_continuation(run, before, now, RunMetadata(data_fingerprint="f", hard_negatives_sha256="b" * 64))


def test_a_run_goes_on_when_everything_has_moved(fit, cube_store, tmp_path, monkeypatch):
    start = fit("pretrain", "start", "--trainer.max_steps", "2", "--trainer.val_check_interval", "2")
    other = shutil.copytree(cube_store, tmp_path / "other")
    options = ("--data.exclude", json.dumps([str(other)]), "--data.split", "train", "--model.init_from")
    whole = fit("pretrain", "whole", *options, str(start / "encoder"))
    step = PretrainModule.training_step

    def interrupted_step(self, batch, batch_idx):
        if self.trainer.global_step == 4:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PretrainModule, "training_step", interrupted_step)
    every = ("--run.checkpoint_every_minutes", "1e-9")
    with pytest.raises(SystemExit):
        fit("pretrain", "cut", *options, str(start / "encoder"), *every)
    monkeypatch.setattr(PretrainModule, "training_step", step)
    moved = tmp_path / "moved"
    for folder in ("g", "other"):
        shutil.copytree(tmp_path / folder, moved / folder, symlinks=True)
    shutil.rmtree(other)
    place = ["--data.store", str(shutil.copytree(cube_store, moved / "store")), "--run.root", str(moved)]
    place += ["--run.group", "g", "--run.name", "cut", "--data.exclude", json.dumps([str(moved / "other")])]
    encoder = str(moved / "g" / "start" / "encoder")
    program.main(["fit", *TINY_PRETRAIN, *place, "--data.split", "train", "--model.init_from", encoder])
    wanted, found = (load_file(one / "encoder" / "encoder.safetensors") for one in (whole, moved / "g" / "cut"))
    assert all(torch.equal(value, found[name]) for name, value in wanted.items())


def test_a_fine_tuning_goes_on_when_its_encoder_and_its_store_have_moved(fit, cube_store, tmp_path, monkeypatch):
    encoder = fit("pretrain", "start", "--trainer.max_steps", "2", "--trainer.val_check_interval", "2") / "encoder"
    shutil.move(encoder, tmp_path / "encoder")
    store = shutil.copytree(cube_store, tmp_path / "store")
    recipe = [*TINY_FINETUNE, "--trainer.val_check_interval", "2", "--trainer.limit_val_batches", "1"]
    recipe += ["--run.root", str(tmp_path), "--run.group", "g", "--run.name", "run", *CONSTANT, "--trainer.max_steps"]

    def tune(steps, encoder):
        place = ["--data.store", str(store), "--model.init_from", str(encoder)]
        finetune_program.main(["fit", *recipe, str(steps), *place])

    tune(2, tmp_path / "encoder")
    other = tmp_path / "other"
    save_encoder(other, ResEnc("XXS"), read_encoder(tmp_path / "encoder").card)
    moved = shutil.move(tmp_path / "encoder", tmp_path / "moved")
    store = shutil.move(store, tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"another configuration: what is in model.init_from \w{12} -> \w{12} \(finger"):
        tune(3, other)
    tune(3, moved)
    facts = json.loads((tmp_path / "g" / "run" / "run.json").read_text(encoding="utf-8"))
    assert (facts["finished"], facts["steps"]) == (True, 3)


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_in_one(cube_store, tmp_path):
    place = ["--data.store", str(cube_store), "--run.root", str(tmp_path), "--run.group", "g", "--data.batch_size", "1"]
    sgd = ["--model.optim.name", "sgd", "--model.optim.lr", "0.01", "--trainer.val_check_interval", "3", "--run.name"]
    recipe = [*TINY_PRETRAIN, *place, *sgd]
    cut = {"point": "forward", "step": 4, "signal": 9}
    plan = [
        {"arguments": [*recipe, "whole"], "num_processes": 2},
        {"arguments": [*recipe, "cut"], "num_processes": 2, "cut": cut},
        {"arguments": [*recipe, "cut"]},
    ]
    assert sit([{"stage": "pretrain", **one} for one in plan], tmp_path) == [[0, 0], [-9, -9], [0]]
    said = (tmp_path / "g" / "cut" / "log.txt").read_text(encoding="utf-8")
    assert "a step of this run has 2 samples, so with 1 process(es) of 1 trainer.accumulate_grad_batches is 2 " in said
    wanted, found = (load_file(tmp_path / "g" / name / "encoder" / "encoder.safetensors") for name in ("whole", "cut"))
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)
