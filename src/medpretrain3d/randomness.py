"""Random numbers that are a function of (seed of the sample, position): no state, no generator that processes share.

`with sample_seeds(batch["seed"])` says whose samples a step works on; whatever draws inside (drop path, dropout, the
sampling of anchors) gets numbers of its row's seed. So a sample meets the same numbers in every batch, on every process
and after a resume.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from medpretrain3d.processes import rank


def counter_random(seed: Tensor, count: int, start: int = 0) -> Tensor:
    """Return random int64 numbers (B, count), a pure function of (seed, position); the first one's position is `start`.

    The finaliser of SplitMix64 (Steele et al., 2014) on a counter: no state, so CPU and GPU agree and a resumed run
    draws what the uninterrupted one would have drawn.
    """
    return random_at(seed[:, None], torch.arange(start, start + count, dtype=torch.int64, device=seed.device)[None])


def random_at(seed: Tensor, position: Tensor | int) -> Tensor:
    """Return the numbers of `counter_random` at any positions: int64, seeds and positions broadcast."""
    step = (position + 1) * _GOLDEN
    return _mix(_mix(seed) + (step if isinstance(step, Tensor) else _signed(step)))


def derived_seeds(seed: Tensor, purpose: str) -> Tensor:
    """Return seeds of the same shape for one purpose, whose numbers have nothing to do with those of another."""
    return random_at(seed, zlib.crc32(purpose.encode()))


def to_uniform(bits: Tensor) -> Tensor:
    """Return Float32 in [0, 1) from random int64 numbers of the same shape."""
    # 24 bits: what float32 holds below 1.
    return ((bits & 0xFFFFFF) * 2.0**-24).to(torch.float32)


@dataclass
class _Draws:
    """Whose numbers are drawn, and how many times that was done."""

    seeds: Tensor
    times: int = 0


_draws: ContextVar[_Draws | None] = ContextVar("draws", default=None)


@contextmanager
def sample_seeds(seeds: Tensor, times: int = 0) -> Iterator[None]:
    """Bind what is drawn inside the context to samples of these seeds.

    Args:
        seeds: (B,) int64, one per row of the batch that the network sees: where views or blocks lie along the batch
            axis, one for each of them.
        times: draws that are done already; for going on where another context was, see `drawing_from`.
    """
    token = _draws.set(_Draws(seeds, times))
    try:
        yield
    finally:
        _draws.reset(token)


def drawing_from() -> tuple[Tensor, int] | None:
    """Return the arguments for `sample_seeds` that repeat what follows from here, None outside of one."""
    draws = _draws.get()
    return (draws.seeds, draws.times) if draws else None


def row_seeds(rows: int, device: torch.device) -> Tensor:
    """Return seeds (rows,) int64 of the samples at work.

    Outside of `sample_seeds` they come from PyTorch's generator and the rows' places in the batch of all processes, so
    processes that were seeded alike still draw what one process with all rows would.

    Raises:
        ValueError: `sample_seeds` was told of another number of rows.
    """
    draws = _draws.get()
    if draws is None:
        base = torch.randint(2**62, (1,)).to(device, non_blocking=True)
        return base + rank() * rows + torch.arange(rows, device=device)
    if len(draws.seeds) != rows:
        raise ValueError(f"got a batch of {rows} rows inside of sample_seeds of {len(draws.seeds)}; wanted as many")
    return draws.seeds.to(device, non_blocking=True)


def draw_bits(rows: int, count: int, device: torch.device) -> Tensor:
    """The next random numbers of every row, (rows, count) int64; other ones at every call within `sample_seeds`."""
    return _draw_bits(rows, count, device)


def keep_draws_out_of_graphs() -> None:
    """Have `torch.compile` end a graph where something is drawn: it would take the count of draws for a constant."""
    global _draw_bits
    if not hasattr(_draw_bits, "_torchdynamo_disable"):
        _draw_bits = torch.compiler.disable(_draw_bits)


def _draw_bits(rows: int, count: int, device: torch.device) -> Tensor:
    seeds, draws = row_seeds(rows, device), _draws.get()
    times = 0
    if draws is not None:
        times, draws.times = draws.times, draws.times + 1
    return counter_random(derived_seeds(seeds, f"draw {times}"), count)


_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # the increment of SplitMix64 as a signed 64-bit number


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    x = (x ^ _shift_right(x, 27)) * (0x94D049BB133111EB - (1 << 64))
    return x ^ _shift_right(x, 31)


def _signed(number: int) -> int:
    """Return what 64 bits keep of a number, read as signed."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    # torch shifts int64 arithmetically; the mask clears the copies of the sign bit.
    return (x >> bits) & ((1 << (64 - bits)) - 1)
