from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medpretrain3d.engine import compute
from medpretrain3d.engine.compute import ComputeMeter
from medpretrain3d.engine.energy import EnergyCounter, EnergyMeter
from medpretrain3d.engine.run import RunFile

CPU: Any = SimpleNamespace(
    strategy=SimpleNamespace(root_device=torch.device("cpu")),
    **{"world_size": 2, "num_nodes": 1, "is_global_zero": True, "global_step": 0},
)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test moves by hand."""
    time = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("time.monotonic", lambda: time.now)
    monkeypatch.setattr(compute, "get_num_threads", lambda: 3)
    return time


def train_on(meter, *sizes):
    """A step per batch through a linear layer of 8 x 4: 2 * 8 * 4 operations per row of the batch."""
    for size in sizes:
        step(meter, torch.ones(size, 8), 4)


def step(meter, image, width):
    batch = {"image": image}
    meter.on_train_batch_start(CPU, None, batch, 0)
    image @ torch.ones(8, width)
    CPU.global_step += 1
    meter.on_train_batch_end(CPU, None, None, batch, 0)


@pytest.fixture(autouse=True)
def from_the_start():
    CPU.global_step = 0


def test_flop_are_those_of_every_batch_of_any_size(tmp_path):
    meter = ComputeMeter(RunFile(tmp_path))
    train_on(meter, 2, 2, 5, 2, 1)
    assert meter.metadata(CPU).flop == 2 * (2 * 8 * 4) * (2 + 2 + 5 + 2 + 1)  # two processes


def test_arithmetic_that_an_objective_draws_is_measured_again(tmp_path):
    meter = ComputeMeter(RunFile(tmp_path))
    for number in range(100):
        step(meter, torch.ones(1, 8), 1 if number < 50 else 3)
    # 50 batches of 16; then one of 48, and 49 that count as the mean of both
    assert meter.metadata(CPU).flop == 2 * (50 * 16 + 48 + 49 * 32)


def test_a_continued_run_measures_the_batches_that_an_undisturbed_one_does(tmp_path, monkeypatch):
    counted: list[int] = []

    class Counter(compute.FlopCounterMode):
        def __enter__(self):
            counted.append(CPU.global_step)
            return super().__enter__()

    monkeypatch.setattr(compute, "FlopCounterMode", Counter)
    sizes = [2, 2, 3, 2, *[3] * 60]
    train_on(ComputeMeter(RunFile(tmp_path / "whole")), *sizes)
    whole = counted.copy()
    for killed_at in range(1, 6):
        counted.clear()
        CPU.global_step = 0
        first, second = (ComputeMeter(RunFile(tmp_path / str(killed_at))) for _ in range(2))
        train_on(first, *sizes[:killed_at])
        second.load_state_dict(first.state_dict())
        train_on(second, *sizes[killed_at:])
        assert counted == whole == [0, 2, 50]


def test_a_killed_sitting_is_part_of_what_the_run_cost(tmp_path, clock):
    killed = ComputeMeter(RunFile(tmp_path))
    killed.on_train_start(CPU, None)
    clock.now += 60
    train_on(killed, 2, 2)
    clock.now += 1
    train_on(killed, 2)  # too soon after the last entry to be kept: lost
    again = ComputeMeter(RunFile(tmp_path))
    clock.now += 60
    train_on(again, 2)
    known = RunFile(tmp_path).read()
    assert known.minutes == pytest.approx(2)
    assert known.compute_hours == pytest.approx(2 / 60 * 2 * 3)  # two processes of three threads
    assert known.flop == 2 * (2 * 8 * 4) * 2 * 2  # one batch of each sitting
    assert known.compute_device == "CPU core"


def test_hours_on_other_numbers_of_devices_add_up(tmp_path, clock, monkeypatch):
    first = ComputeMeter(RunFile(tmp_path))
    clock.now += 3600
    first.on_exception(CPU, None, KeyboardInterrupt())
    monkeypatch.setattr(compute, "get_num_threads", lambda: 1)
    second = ComputeMeter(RunFile(tmp_path))
    clock.now += 3600
    assert second.metadata(CPU).compute_hours == pytest.approx(2 * 3 + 2 * 1)


def test_a_run_that_had_trained_all_its_steps_keeps_its_costs(tmp_path, clock):
    first = ComputeMeter(RunFile(tmp_path))
    train_on(first, 4)
    first.on_train_end(CPU, None)
    clock.now += 60
    finalize = ComputeMeter(RunFile(tmp_path))
    finalize.on_test_batch_end(CPU, None, None, None, 0)
    assert finalize.metadata(CPU).flop == first.metadata(CPU).flop > 0


@pytest.fixture
def joules(monkeypatch):
    """A counter of millionths of a joule that the test moves by hand; None where there is none."""
    counter = SimpleNamespace(now=7_000_000)

    def meter(device):
        return None if counter.now is None else EnergyMeter([EnergyCounter(lambda: counter.now)], "GPU")

    monkeypatch.setattr(compute, "energy_meter", meter)
    return counter


GPUS: Any = SimpleNamespace(
    strategy=SimpleNamespace(root_device=torch.device("cuda", 0)),
    **{"world_size": 4, "num_nodes": 1, "is_global_zero": True, "global_step": 0},
)


def sit(folder, joules, grows_by, trainer=GPUS):
    meter = ComputeMeter(RunFile(folder))
    meter.setup(trainer, None, "fit")
    meter.on_train_start(trainer, None)
    if joules.now is not None:
        joules.now += grows_by
    meter.on_train_end(trainer, None)
    return RunFile(folder).read()


def test_energy_is_that_of_all_devices_and_sittings(tmp_path, joules):
    known = sit(tmp_path, joules, 900_000_000_000)  # 0.25 kWh
    assert (known.energy_kwh, known.energy_of) == (pytest.approx(0.25 * 4), "GPU")
    assert sit(tmp_path, joules, 360_000_000_000).energy_kwh == pytest.approx((0.25 + 0.1) * 4)
    assert sit(tmp_path / "cpu", joules, 900_000_000_000, CPU).energy_kwh == pytest.approx(0.25)  # one machine


def test_energy_that_one_sitting_does_not_know_is_not_known_of_the_run(tmp_path, joules):
    assert sit(tmp_path, joules, 900_000_000_000).energy_kwh == pytest.approx(1)
    start, joules.now = joules.now, None
    assert (sit(tmp_path, joules, 0).energy_kwh, RunFile(tmp_path).read().energy_of) == (None, None)
    joules.now = start
    assert sit(tmp_path, joules, 900_000_000_000).energy_kwh is None
