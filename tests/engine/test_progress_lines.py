"""Lines by which a run is followed."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch

from medpretrain3d.engine import progress_lines, throughput
from medpretrain3d.engine.progress_lines import ProgressLines, duration
from medpretrain3d.engine.throughput import Throughput


class Clock:
    """A time that goes on when it is told."""

    now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    perf_counter = monotonic


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (progress_lines, throughput):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def said(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(progress_lines.run_log, "say", said.append)
    return said


def trainer_at(**values: Any) -> Any:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    own = {"global_step": 0, "max_steps": 100, "accumulate_grad_batches": 1, "world_size": 2, "is_global_zero": True}
    return SimpleNamespace(**own, optimizers=[optimizer], sanity_checking=False, callback_metrics={}, **values)


def train(clock: Clock, trainer: Any, seconds: list[float], accumulate: int = 1) -> None:
    """Make a step per entry, which takes so long: a quarter of it waiting for data."""
    counted = Throughput(window=10**6)
    lines = ProgressLines(counted)
    module, batch = L.LightningModule(), [torch.zeros(3)]
    trainer.accumulate_grad_batches = accumulate
    lines.on_train_start(trainer, module)
    counted._last_end = clock.now_s
    for step, took_s in enumerate(seconds):
        for part in range(accumulate):
            clock.now_s += 0.25 * took_s / accumulate
            counted.on_train_batch_start(trainer, module, batch, step)
            lines.on_train_batch_start(trainer, module, batch, step)
            clock.now_s += 0.75 * took_s / accumulate
            trainer.global_step += part == accumulate - 1
            outputs = {"loss": torch.tensor(float(step)) / accumulate}
            for callback in (counted, lines):
                callback.on_train_batch_end(trainer, module, outputs, batch, step)


def test_a_line_after_the_first_step_and_then_every_minute(clock, said):
    train(clock, trainer_at(), [30.0, *[10.0] * 15])
    assert [re.match(r"step (\d+) of 100 \((\d+) %\)", line).groups() for line in said] == [
        ("1", "1"),
        ("7", "7"),  # a minute after the first
        ("13", "13"),
    ]
    first, second, third = said
    assert ", loss 0, lr 0.5, 0.2 samples/s, 25 % of the time waiting for data, " in first  # 3 x 2 samples in 30 s
    assert first.endswith(", 30.0 s trained, time left not known yet")
    # The mean of the losses 1 to 6, 6 samples in 10 s, and 93 more steps of 10 s.
    assert ", loss 3.5, lr 0.5, 0.6 samples/s, 25 % of the time waiting for data, " in second
    assert second.endswith(", 1 min 30 s trained, about 15 min 30 s left")
    assert ", loss 9.5, " in third


def test_accumulated_batches_are_one_step_with_their_mean_loss(clock, said):
    train(clock, trainer_at(), [30.0, *[40.0] * 2], accumulate=2)
    assert [line.split(",")[0] for line in said] == ["step 1 of 100 (1 %)", "step 3 of 100 (3 %)"]
    assert ", loss 1.5, " in said[1]
    assert ", 0.3 samples/s, " in said[1]  # 2 x 3 x 2 samples in 40 s


def test_a_validation_is_a_line_with_what_it_measured_and_how_long_it_took(clock, said):
    lines, trainer = ProgressLines(Throughput()), trainer_at()
    trainer.global_step = 1500
    trainer.callback_metrics = {"train/loss": torch.tensor(1.0), "val/loss": torch.tensor(0.25), "lr": 1.0}
    lines.on_validation_start(trainer, L.LightningModule())
    clock.now_s += 75
    lines.on_validation_end(trainer, L.LightningModule())
    assert said == ["step 1,500: validation took 1 min 15 s: val/loss 0.25"]


def test_other_processes_than_the_first_say_nothing(clock, said):
    trainer = trainer_at()
    trainer.is_global_zero = False
    train(clock, trainer, [100.0] * 3)
    assert said == []


@pytest.mark.parametrize(
    ("seconds", "said_so"),
    [(59.4, "59.4 s"), (60, "1 min 0 s"), (3599.9, "1 h 0 min"), (1e5, "1 d 3 h")],
)
def test_a_duration_has_two_units_at_most(seconds, said_so):
    assert duration(seconds) == said_so
