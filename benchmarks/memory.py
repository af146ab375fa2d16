"""Two ways of doing the same work, each in a process of its own, by the memory that they reach."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks.timing import Row

Preparation = Callable[[], Callable[[], object]]


def compare_memory(
    work: str,
    peer: str,
    prepare_peer: Callable[[], Callable[[], object]],
    prepare_ours: Callable[[], Callable[[], object]],
) -> Row:
    """Prepare and run both, and compare their peak memory above what the process held before the work.

    Both arguments are functions of a module that return the work to be measured.
    """
    return Row(work, peer, _peak_mb(prepare_peer), _peak_mb(prepare_ours), unit="MB")


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
    before = high_water_mb()
    run()
    send.send(high_water_mb() - before)


def high_water_mb() -> float:
    # Not getrusage: its maximum outlives exec, so a child begins with its parent's.
    line = next(
        line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024
