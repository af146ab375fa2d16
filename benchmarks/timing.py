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
    """One line of the table: the same work done by a peer and by us, in milliseconds unless it says otherwise."""

    work: str
    peer: str
    theirs: float
    ours: float
    unit: str = "ms"
    bar: float = 1.0
    """Ratio that is wanted."""
    precision: str = "fp32"
    """Of both, or of the peer and of ours."""

    @property
    def ratio(self) -> float:
        """How many times more the peer takes."""
        return self.theirs / self.ours

    @property
    def is_met(self) -> bool:
        """Whether the ratio reaches its bar."""
        return self.ratio >= self.bar

    def __str__(self) -> str:
        numbers = f"{self.theirs:>10.2f}{self.ours:>10.2f} {self.unit:<6}{self.ratio:>8.2f}{self.bar:>7g}"
        return f"{self.work:<66}{self.peer:<30}{numbers}  {'met' if self.is_met else 'behind'}"


HEADER = f"{'work':<66}{'peer':<30}{'peer':>10}{'ours':>10} {'':<6}{'ratio':>8}{'bar':>7}"


def race(
    work: str,
    peer: str,
    peer_run: Callable[[], object],
    our_run: Callable[[], object],
    rounds: int = 5,
    keeps_memory: bool = False,
    bar: float = 1.0,
) -> Row:
    """Run both once to warm up, then in turn, so that a drifting machine hits both alike; medians count.

    Args:
        work: what both do.
        peer: who else does it.
        peer_run: does it the other way.
        our_run: does it our way.
        rounds: that count.
        keeps_memory: ours keeps freed memory as both stages and their loaders do, the peer has glibc's default as it
            has for its users. MONAI's cropping, whose copies are as large as the volume, takes half the time on kept
            memory.
        bar: ratio that is wanted.
    """
    peer_ms, ours_ms = [], []
    for _ in range(1 + rounds):
        peer_ms.append(_milliseconds(peer_run))
        if keeps_memory:
            keep_freed_memory()
        ours_ms.append(_milliseconds(our_run))
        if keeps_memory:
            return_freed_memory()
    del peer_ms[0], ours_ms[0]
    return Row(work, peer, statistics.median(peer_ms), statistics.median(ours_ms), bar=bar)


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
