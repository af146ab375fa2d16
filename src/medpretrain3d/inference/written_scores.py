"""Scores as files have them: nine digits tell every float32 apart, those of two stages are float64 and kept in full."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def written(scores: np.ndarray) -> list[float]:
    """Return scores for a file, from which `read` makes the same again."""
    return [float(score) for score in scores] if scores.dtype == np.float64 else _nine_digits(scores)


def read(listed: list[float]) -> np.ndarray:
    """Invert `written`."""
    single = np.asarray(listed, dtype=np.float32)
    return single if _nine_digits(single) == listed else np.asarray(listed, dtype=np.float64)


def narrowed(scores: np.ndarray) -> np.ndarray:
    """Return scores (N,) float64 as the float32 that they are, itself or by its nine digits; as they are if not all
    are."""
    single = scores.astype(np.float32)
    is_single = (single == scores) | (np.array(_nine_digits(single)) == scores)
    return single if is_single.all() else scores


def _nine_digits(scores: Iterable[float]) -> list[float]:
    return [float(f"{score:.9g}") for score in scores]
