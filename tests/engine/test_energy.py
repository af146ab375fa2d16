"""Counters of energy that are files, or a library, of the test's own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from medpretrain3d.engine import energy
from medpretrain3d.engine.energy import EnergyCounter, EnergyMeter, cpu_counters, energy_meter

KWH_UJ = 3_600_000_000_000


def zone(root: Path, folder: str, name: str, energy_uj: int, range_uj: int = 2**60) -> Path:
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return path / "energy_uj"


def test_a_meter_adds_what_its_counters_grow_by():
    first, second = SimpleNamespace(now=5 * KWH_UJ), SimpleNamespace(now=0)
    meter = EnergyMeter([EnergyCounter(lambda: first.now), EnergyCounter(lambda: second.now)], "GPU")
    assert meter.kwh() == 0
    first.now += KWH_UJ // 2
    second.now += KWH_UJ // 4
    assert meter.kwh() == pytest.approx(0.75)
    assert meter.kwh() == pytest.approx(0.75)


def test_a_counter_that_begins_again_goes_on():
    of_cpu = SimpleNamespace(now=90)
    meter = EnergyMeter([EnergyCounter(lambda: of_cpu.now, range_uj=100)], "CPU packages")
    of_cpu.now = 30
    assert meter.kwh() == pytest.approx(40 / KWH_UJ)
    of_gpu = SimpleNamespace(now=90)
    meter = EnergyMeter([EnergyCounter(lambda: of_gpu.now)], "GPU")
    of_gpu.now = 30  # its driver was loaded anew
    assert meter.kwh() == pytest.approx(30 / KWH_UJ)


def test_processors_are_packages_and_memory_and_nothing_twice(tmp_path: Path):
    package = zone(tmp_path, "intel-rapl:0", "package-0", 10)
    zone(tmp_path, "intel-rapl:0:0", "core", 5)
    dram = zone(tmp_path, "intel-rapl:0:1", "dram", 20)
    zone(tmp_path, "intel-rapl:1", "psys", 50)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 10)
    counters = cpu_counters(tmp_path)
    assert [one.read() for one in counters] == [10, 20]
    meter = EnergyMeter(counters, "CPU packages")
    package.write_text("110")
    dram.write_text("220")
    assert meter.kwh() == pytest.approx(300 / KWH_UJ)


def test_what_cannot_be_read_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    cpu = torch.device("cpu")
    monkeypatch.setattr(energy, "cpu_counters", lambda: cpu_counters(tmp_path))
    assert energy_meter(cpu) is None  # no counter
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 10)
    meter = energy_meter(cpu)
    assert meter is not None
    assert meter.kwh() == 0
    counter.unlink()
    assert meter.kwh() is None
    counter.write_text("20")
    assert meter.kwh() is None  # for good: what came between is not known
    counter.write_text("no number")
    assert energy_meter(cpu) is None
    assert energy_meter(torch.device("meta")) is None


class NVMLError(Exception):
    pass


def fake_nvml(counts: dict[str, int]) -> SimpleNamespace:
    def read(handle: str) -> int:
        if handle not in counts:
            raise NVMLError("not supported")
        return counts[handle]

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=read,
    )


def test_a_gpu_is_found_by_its_uuid_and_counts_in_millijoules(monkeypatch: pytest.MonkeyPatch):
    counts = {"GPU-b": 1_000}
    monkeypatch.setitem(__import__("sys").modules, "pynvml", fake_nvml(counts))
    of = {0: "b", 1: "part"}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=of[device.index]))
    meter = energy_meter(torch.device("cuda", 0))
    assert meter is not None
    counts["GPU-b"] += 3_600_000_000  # millijoules
    assert (meter.kwh(), meter.device) == (pytest.approx(1), "GPU")
    assert energy_meter(torch.device("cuda", 1)) is None
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    assert energy_meter(torch.device("cuda", 0)) is None
