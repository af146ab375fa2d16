"""Two ways of doing the same work, timed in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from medpretrain3d.memory import keep_freed_memory, return_freed_memory


@dataclass(frozen=True)
class Row:
    """One line of the table: medians in milliseconds."""

    work: str
    peer: str
    peer_ms: float
    ours_ms: float

    def __str__(self) -> str:
        ratio = self.peer_ms / self.ours_ms
        return f"{self.work:<58}{self.peer:<26}{self.peer_ms:>10.2f}{self.ours_ms:>10.2f}{ratio:>9.1f}"


HEADER = f"{'work':<58}{'peer':<26}{'peer ms':>10}{'ours ms':>10}{'ratio':>9}"


def race(
    work: str,
    peer: str,
    peer_run: Callable[[], object],
    our_run: Callable[[], object],
    rounds: int = 5,
    is_loader: bool = False,
) -> Row:
    """Run both once to warm up, then in turn, so that a drifting machine hits both alike; medians count.

    Args:
        work: what both do.
        peer: who else does it.
        peer_run: does it the other way.
        our_run: does it our way.
        rounds: that count.
        is_loader: ours keeps freed memory as the loaders of both stages do, the peer has glibc's default as it has for
            its users. MONAI's cropping, whose copies are as large as the volume, takes half the time on kept memory.
    """
    peer_ms, ours_ms = [], []
    for _ in range(1 + rounds):
        peer_ms.append(_milliseconds(peer_run))
        if is_loader:
            keep_freed_memory()
        ours_ms.append(_milliseconds(our_run))
        if is_loader:
            return_freed_memory()
    del peer_ms[0], ours_ms[0]
    return Row(work, peer, statistics.median(peer_ms), statistics.median(ours_ms))


def _milliseconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


@contextmanager
def one_thread() -> Iterator[None]:
    """What a worker of a data loader has: one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
