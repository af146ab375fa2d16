"""A checkpoint that could not be written, or is no longer what was written, costs steps and never the run."""

from __future__ import annotations

import csv
import errno
import json

import pytest
import torch

from medpretrain3d.errors import UserError, exit_code
from pretrain import __main__ as program
from pretrain.module import PretrainModule

from .conftest import TINY_PRETRAIN


@pytest.fixture
def fit(cube_store, tmp_path):
    def run(name: str, *arguments: str):
        place = ["--data.store", str(cube_store), "--run.root", str(tmp_path), "--run.group", "g", "--run.name", name]
        program.main(["fit", *TINY_PRETRAIN, *place, "--trainer.max_steps", "9", *arguments])
        return tmp_path / "g" / name

    return run


def encoder(folder):
    return (folder / "encoder" / "encoder.safetensors").read_bytes()


def kept(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_a_full_disk_ends_the_run_in_one_line_and_leaves_the_last_checkpoint(fit, monkeypatch, tmp_path):
    save = torch.save

    def full(state, file):
        if state["global_step"] == 6:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(state, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"the disk is full.*; the run continues from .*step_0000003.ckpt") as caught:
        fit("cut")
    assert "\n" not in str(caught.value)
    assert exit_code(caught.value) == 1
    assert kept(tmp_path / "g" / "cut") == ["last.ckpt", "step_0000003.ckpt"]
    monkeypatch.undo()
    assert encoder(fit("cut")) == encoder(fit("whole"))


def test_a_damaged_checkpoint_is_passed_over_and_both_damaged_end_in_one_line(fit, monkeypatch, tmp_path, capsys):
    step, seen = PretrainModule.training_step, []

    def failing(self, batch, batch_idx):
        seen.append(batch_idx)
        if len(seen) == 8:
            raise RuntimeError("the network is on fire")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PretrainModule, "training_step", failing)
    with pytest.raises(RuntimeError, match="on fire"):
        fit("cut")
    monkeypatch.undo()
    checkpoints = tmp_path / "g" / "cut" / "checkpoints"
    assert kept(checkpoints.parent) == ["last.ckpt", "step_0000003.ckpt", "step_0000006.ckpt"]
    newest, older = checkpoints / "step_0000006.ckpt", checkpoints / "step_0000003.ckpt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 100] = bytes(100)
    newest.write_bytes(data)
    older_bytes = older.read_bytes()
    older.write_bytes(older_bytes[:1000])
    with pytest.raises(UserError, match="no whole checkpoint is left to continue from") as caught:
        fit("cut")
    assert "\n" not in str(caught.value)
    older.write_bytes(older_bytes)
    capsys.readouterr()
    folder = fit("cut")
    assert f"{newest}: this checkpoint is damaged" in capsys.readouterr().out
    assert kept(folder) == ["last.ckpt", "step_0000006.ckpt", "step_0000009.ckpt"]
    assert torch.load(newest, weights_only=True)["global_step"] == 6
    assert encoder(folder) == encoder(fit("whole"))


def test_a_checkpoint_of_an_earlier_version_is_continued_with_the_validation_that_it_may_lack(
    fit, monkeypatch, tmp_path
):
    earlier = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"}
    earlier["init_args"] = {"dirpath": str(tmp_path / "old"), "filename": "last", "every_n_train_steps": 3}
    as_before = ["--trainer.callbacks", json.dumps([earlier])]
    whole = encoder(fit("whole"))
    step, seen = PretrainModule.training_step, []

    def failing(self, batch, batch_idx):
        seen.append(batch_idx)
        if len(seen) == 5:
            raise RuntimeError("the network is on fire")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PretrainModule, "training_step", failing)
    with pytest.raises(RuntimeError, match="on fire"):
        fit("cut", *as_before)
    monkeypatch.undo()
    state = torch.load(tmp_path / "old" / "last.ckpt", weights_only=True)  # written by Lightning's callback
    del state["callbacks"]["Checkpoints"]
    checkpoints = tmp_path / "g" / "cut" / "checkpoints"
    for path in checkpoints.iterdir():
        path.unlink()
    torch.save(state, checkpoints / "last.ckpt")
    folder = fit("cut")
    assert encoder(folder) == whole
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == [str(step) for step in range(9)]
    assert [row["step"] for row in rows if row["val/loss"]] == ["2", "5", "8"]
