"""Two ways of doing the same work, each in a process of its own, by the memory that they reach."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

Preparation = Callable[[], Callable[[], object]]


@dataclass(frozen=True)
class MemoryRow:
    """One line of the table: peak memory in MB above what the process held before the work."""

    work: str
    peer: str
    peer_mb: float
    ours_mb: float

    def __str__(self) -> str:
        ratio = self.peer_mb / self.ours_mb
        return f"{self.work:<58}{self.peer:<26}{self.peer_mb:>7.0f} MB{self.ours_mb:>7.0f} MB{ratio:>9.1f}"


def compare_memory(
    work: str,
    peer: str,
    prepare_peer: Callable[[], Callable[[], object]],
    prepare_ours: Callable[[], Callable[[], object]],
) -> MemoryRow:
    """Prepare and run both; both arguments are functions of a module that return the work to be measured."""
    return MemoryRow(work, peer, _peak_mb(prepare_peer), _peak_mb(prepare_ours))


def _peak_mb(prepare: Preparation) -> float:
    context = multiprocessing.get_context("spawn")  # a fork would start from this process's own peak
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(prepare, send, torch.get_num_threads()))
    process.start()
    peak = float(receive.recv())
    process.join()
    return peak


def _measure(prepare: Preparation, send: Connection, num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    run = prepare()
    before = _high_water_mb()
    run()
    send.send(_high_water_mb() - before)


def _high_water_mb() -> float:
    # Not getrusage: its maximum outlives exec, so a child begins with its parent's.
    line = next(
        line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024
