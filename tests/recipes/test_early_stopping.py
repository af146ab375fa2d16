"""A run that an early stopping ends is finished: it is not trained on when it is called again."""

from __future__ import annotations

import json

import pytest
import torch
from lightning.pytorch.callbacks import Timer

from medpretrain3d.errors import UserError

from .test_continued_configuration import CONSTANT, fit, weights
from .test_continued_run import STAGES

MONITOR = {"pretrain": {"monitor": "val/loss"}, "finetune": {"monitor": "val/mAP", "mode": "max"}}


def steps_of(folder):
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return facts["finished"], facts["steps"], facts["budget_steps"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_was_stopped_early_is_finished(stage, cube_store, tmp_path, monkeypatch):
    # No validation is better by so much as the first one: the second ends it, at step 4 of 8.
    stopping = {"class_path": "EarlyStopping", "init_args": {**MONITOR[stage], "patience": 1, "min_delta": 9.0}}
    options = (*CONSTANT, "--trainer.callbacks", json.dumps([stopping]), "--trainer.val_check_interval", "2")
    options += ("--trainer.max_steps",)
    whole = fit(stage, cube_store, tmp_path, "whole", *options, "8")
    wanted = weights(stage, whole)
    assert steps_of(whole) == (True, 4, 8)
    for steps in ("8", "5"):
        with pytest.raises(UserError, match=r"this run is finished, after 4 of 8 steps; .* a larger trainer.max_steps"):
            fit(stage, cube_store, tmp_path, "whole", *options, steps)
    assert all(torch.equal(value, wanted[name]) for name, value in weights(stage, whole).items())

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"{stage}.cli.finalize", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(stage, cube_store, tmp_path, "cut", *options, "8")
    monkeypatch.undo()
    cut = fit(stage, cube_store, tmp_path, "cut", *options, "8")
    assert steps_of(cut) == (True, 4, 8)
    assert all(torch.equal(value, wanted[name]) for name, value in weights(stage, cut).items())
    # More steps than were asked for: it goes on until the next validation is no better either.
    assert steps_of(fit(stage, cube_store, tmp_path, "cut", *options, "9")) == (True, 6, 9)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_whose_time_was_up_goes_on_with_more_time(stage, cube_store, tmp_path, monkeypatch):
    module, made = STAGES[stage][1], []
    step = module.training_step

    def counted_step(self, batch, batch_idx):
        made.append(batch_idx)
        return step(self, batch, batch_idx)

    options = (*CONSTANT, "--trainer.callbacks", "[]", "--trainer.val_check_interval", "2", "--trainer.max_steps")
    whole = fit(stage, cube_store, tmp_path, "whole", *options, "5")
    monkeypatch.setattr(module, "training_step", counted_step)
    monkeypatch.setattr(Timer, "time_elapsed", lambda *_: 10.0 * len(made))  # seconds: a step takes ten
    limited = (*options, "5", "--trainer.max_time")
    cut = fit(stage, cube_store, tmp_path, "cut", *limited, "00:00:00:30")
    assert steps_of(cut) == (True, 3, 5)
    with pytest.raises(UserError, match=r"finished, after 3 of 5 steps; .* larger trainer.max_time or trainer.max_ste"):
        fit(stage, cube_store, tmp_path, "cut", *limited, "00:00:00:30")
    assert steps_of(fit(stage, cube_store, tmp_path, "cut", *limited, "00:00:01:00")) == (True, 5, 5)
    assert made == [0, 1, 2, 3, 4]
    assert all(torch.equal(value, weights(stage, whole)[name]) for name, value in weights(stage, cut).items())
    with pytest.raises(UserError, match="this run is finished; give another"):
        fit(stage, cube_store, tmp_path, "cut", *limited, "00:00:02:00")
