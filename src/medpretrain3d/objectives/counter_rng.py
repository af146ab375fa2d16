"""Random numbers in turn, for pretext tasks that change an image in several steps."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from medpretrain3d.randomness import counter_random, to_uniform


class CounterRNG:
    """The random numbers of one sample: a pure function of its seed and of how many were drawn before.

    What is drawn decides what is done next, so it is drawn where that is decided: on the CPU, with the numbers of
    `counter_random`. Only `noise`, a number per voxel, is made where the image is.

    Args:
        seed: a number, or () int64; one on another device is waited for.
    """

    def __init__(self, seed: int | Tensor) -> None:
        self._seed = int(seed)
        self._mixed_seed = _mixed(np.array([self._seed], dtype=np.int64).view(np.uint64))
        self.position = 0

    def bits(self, count: int) -> np.ndarray:
        """Return (count,) int64, every bit a coin."""
        counter = np.arange(self.position + 1, self.position + count + 1, dtype=np.uint64)
        self.position += count
        return _mixed(self._mixed_seed + counter * _GOLDEN).view(np.int64)

    def uniform(self, *shape: int) -> np.ndarray:
        """Return float32 of this shape in [0, 1)."""
        # 24 bits: what float32 holds below 1.
        return ((self.bits(math.prod(shape)) & 0xFFFFFF) * 2.0**-24).astype(np.float32).reshape(shape)

    def integers(self, low: int | np.ndarray, high: int | np.ndarray, *shape: int) -> np.ndarray:
        """Return int64 of this shape from `low` to `high`, both included; the bounds may be arrays that broadcast."""
        # The remainder of 63 bits favours no number of a patch's size by more than 1e-15.
        positive = self.bits(math.prod(shape)).reshape(shape) & 0x7FFF_FFFF_FFFF_FFFF
        drawn: np.ndarray = low + positive % (high - low + 1)
        return drawn

    def integer(self, low: int, high: int) -> int:
        """Return one number from `low` to `high`, both included."""
        return int(self.integers(low, high))

    def bernoulli(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.uniform() < np.float32(probability))

    def noise(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Return float32 of this shape in [0, 1), as `uniform` draws it, made on a device."""
        count, seed = math.prod(shape), torch.full((1,), self._seed, dtype=torch.int64, device=device)
        drawn = counter_random(seed, count, self.position)
        self.position += count
        return to_uniform(drawn).reshape(shape)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mixed(x: np.ndarray) -> np.ndarray:
    """Return SplitMix64's finaliser, as in `medpretrain3d.randomness`, of (N,) uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: np.ndarray = x ^ (x >> np.uint64(31))
    return result
