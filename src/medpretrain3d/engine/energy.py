"""Energy that the devices of a run take, by the counters of GPUs (NVML) and processors (RAPL) where they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

POWERCAP = Path("/sys/class/powercap")
JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class EnergyCounter:
    """A counter of a device that only grows, until it begins again."""

    read: Callable[[], int]
    """Returns millionths of a joule; raises OSError where it cannot be read any more."""
    range_uj: int | None = None
    """The counter begins again at 0 after this much; None for never."""


class EnergyMeter:
    """Adds up what counters count from now on.

    Args:
        counters: one or more, all of devices of one kind.
        device: what they count, in words.

    Raises:
        OSError: one of them cannot be read.
    """

    def __init__(self, counters: Sequence[EnergyCounter], device: str) -> None:
        self.device = device
        self._counters = tuple(counters)
        self._last = [one.read() for one in counters]
        self._total_uj: int | None = 0

    def kwh(self) -> float | None:
        """Return the energy so far; None from the moment on that a counter cannot be read.

        To be called more often than a counter runs through its range: that of a processor at 200 W takes 20 minutes.
        """
        if self._total_uj is None:
            return None
        try:
            now = [one.read() for one in self._counters]
        except OSError:
            self._total_uj = None
            return None
        for one, before, value in zip(self._counters, self._last, now, strict=True):
            if value < before:  # it began again: at its end, or with a driver that was loaded anew
                before = before - one.range_uj if one.range_uj else 0
            self._total_uj += value - before
        self._last = now
        return self._total_uj / 1e6 / JOULES_PER_KWH


def energy_meter(device: torch.device) -> EnergyMeter | None:
    """Return a meter of the device that a process computes on; None where nothing tells.

    Of a CPU it is that of all packages and their memory, whatever else runs on them.
    """
    with suppress(OSError):
        if device.type == "cuda":
            return EnergyMeter([gpu_counter(device)], "GPU")
        if device.type == "cpu" and (counters := cpu_counters()):
            return EnergyMeter(counters, "CPU packages")
    return None


def gpu_counter(device: torch.device) -> EnergyCounter:
    """Return the counter of an NVIDIA GPU, from Volta on.

    Raises:
        OSError: NVML or `pynvml` is not there, or the GPU (a part of one) has none.
    """
    try:
        import pynvml
    except ImportError as error:
        raise OSError("pynvml is not installed") from error

    def counted() -> int:
        try:
            return 1000 * int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        except pynvml.NVMLError as error:
            raise OSError(str(error)) from error

    try:
        pynvml.nvmlInit()
        # Its number at NVML is another one than CUDA's, which leaves out what CUDA_VISIBLE_DEVICES hides.
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except pynvml.NVMLError as error:
        raise OSError(str(error)) from error
    return EnergyCounter(counted)


def cpu_counters(root: Path = POWERCAP) -> list[EnergyCounter]:
    """Return the counters of the processors' packages and of the memory beside them (RAPL, Intel and AMD).

    Cores are part of their package. `psys`, the whole machine, holds packages, so that it is left out.

    Raises:
        OSError: one of them cannot be read, as most kernels leave it to root.
    """
    found = []
    for zone in sorted(root.glob("intel-rapl:*")):
        name = (zone / "name").read_text().strip()
        if name.startswith("package") or name == "dram":
            found.append(EnergyCounter(_file_counter(zone / "energy_uj"), _number(zone / "max_energy_range_uj")))
    return found


def _file_counter(path: Path) -> Callable[[], int]:
    return lambda: _number(path)


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except ValueError as error:
        raise OSError(f"{path}: holds no number") from error
