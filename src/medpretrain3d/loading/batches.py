"""Batch sampling: a pure function of the position in the run."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class PositionBatches(Sampler[list[int]]):
    """Hands out sample positions, batch by batch, from any batch of the run on.

    The global batch `b` of `world_size` processes holds positions `b * B * W` to `(b + 1) * B * W - 1`; each process
    takes its own contiguous share. A dataset that draws everything from (seed, position) then gives the same samples
    whatever the number of workers, and after a resume in the middle of an epoch goes on where it stopped.

    Args:
        batch_size: samples per process and batch (B).
        num_batches: batches per process in the whole run, also what `len` says after a resume.
        rank: this process.
        world_size: number of processes (W).
        first_batch: batches that an interrupted run has already seen.
    """

    def __init__(
        self, batch_size: int, num_batches: int, rank: int = 0, world_size: int = 1, first_batch: int = 0
    ) -> None:
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.rank = rank
        self.world_size = world_size
        self.first_batch = first_batch

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(self.first_batch, self.num_batches):
            start = (batch * self.world_size + self.rank) * self.batch_size
            yield list(range(start, start + self.batch_size))

    def __len__(self) -> int:
        return self.num_batches


def generator_at(seed: int, position: int) -> np.random.Generator:
    """Return the random generator of one sample: Philox counts, so it costs nothing to jump to any position."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, position], dtype=np.uint64)))


def shuffled(seed: int, position: int, count: int) -> int:
    """Return index of the sample at `position` when `count` items are visited in a new random order on every pass."""
    return int(_order_of_pass(seed, position // count, count)[position % count])


@functools.lru_cache(maxsize=4)  # the order of 50,000 cases takes as long as half a crop
def _order_of_pass(seed: int, number: int, count: int) -> np.ndarray:
    return generator_at(seed, (1 << 63) + number).permutation(count)
