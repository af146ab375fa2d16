"""Values that change over a run: functions of how much of it is done."""

from __future__ import annotations

import math


def cosine(first: float, last: float, progress: float) -> float:
    """Return the value at a share of the way, from `first` at 0 to `last` at 1 along half a cosine (SGDR, eq. 5)."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))


def linear(first: float, last: float, progress: float) -> float:
    """Return the value at a share of the way, straight from `first` at 0 to `last` at 1."""
    return first + (last - first) * min(1.0, max(0.0, progress))
