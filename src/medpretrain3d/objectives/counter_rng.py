"""Random numbers in turn, for pretext tasks that change an image in several steps."""

from __future__ import annotations

import math

from torch import Tensor

from medpretrain3d.randomness import counter_random, to_uniform


class CounterRNG:
    """The random numbers of one sample: a pure function of its seed and of how many were drawn before.

    Args:
        seed: () int64; numbers are made on its device.
    """

    def __init__(self, seed: Tensor) -> None:
        self.seed = seed.reshape(1)
        self.position = 0

    def bits(self, count: int) -> Tensor:
        """Return (count,) int64, every bit a coin."""
        drawn = counter_random(self.seed, count, self.position)[0]
        self.position += count
        return drawn

    def uniform(self, *shape: int) -> Tensor:
        """Return Float32 of this shape in [0, 1)."""
        return to_uniform(self.bits(math.prod(shape))).reshape(shape)

    def integers(self, low: int | Tensor, high: int | Tensor, *shape: int) -> Tensor:
        """Return Int64 of this shape from `low` to `high`, both included; the bounds may be tensors that broadcast."""
        # The remainder of 63 bits favours no number of a patch's size by more than 1e-15.
        positive = self.bits(math.prod(shape)).reshape(shape) & 0x7FFF_FFFF_FFFF_FFFF
        return low + positive % (high - low + 1)

    def integer(self, low: int, high: int) -> int:
        """Return one number from `low` to `high`, both included."""
        return int(self.integers(low, high))

    def bernoulli(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.uniform() < probability)
