"""Intensity statistics of a volume or a dataset, from exact histograms of its int16 values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import NotRequired

import numpy as np
from pydantic import with_config
from typing_extensions import TypedDict

from medpretrain3d.documents import SCHEMA, Number

LOW_PERCENT, HIGH_PERCENT = 0.5, 99.5
MEASURED = ("above_lowest", "all")
"""Which voxels of a case are measured; a case prepared when fewer were is prepared again."""
_LOWEST = int(np.iinfo(np.int16).min)


@with_config({**SCHEMA, "extra": "forbid"})
class StatisticsDocument(TypedDict):
    """Statistics of a channel as plain data."""

    mean: Number
    std: Number
    low: Number
    high: Number
    mean_of_all: NotRequired[Number | None]
    std_of_all: NotRequired[Number | None]


@dataclass(frozen=True)
class ChannelStatistics:
    """Intensity statistics of one channel, in stored units; all 0 where nothing was counted.

    The first four are of the voxels above what surrounds the patient, the last two of every voxel: None in a case that
    was prepared before they were measured.
    """

    mean: float
    std: float
    low: float
    """Percentile 0.5."""
    high: float
    """Percentile 99.5."""
    mean_of_all: float | None = None
    std_of_all: float | None = None

    def to_json(self) -> dict[str, float | None]:
        """Return plain data."""
        return asdict(self)

    @staticmethod
    def from_json(document: StatisticsDocument) -> ChannelStatistics:
        """Read what `to_json` gave."""
        return ChannelStatistics(**document)


class Histogram:
    """Counts of each int16 value; exact, so the order in which voxels come makes no difference."""

    def __init__(self) -> None:
        self.counts = np.zeros(2**16, dtype=np.int64)

    def add(self, values: np.ndarray) -> None:
        """Count int16 values of any shape."""
        for part in values if values.ndim > 1 else [values]:  # slice by slice: bincount works on a copy of 8 bytes each
            self.counts += np.bincount(part.ravel().astype(np.int64) - _LOWEST, minlength=2**16)

    def statistics(self, above: int | None = None) -> ChannelStatistics:
        """Compute the statistics of all values, or of those greater than one; of all where none is greater."""
        counts = self.counts.copy()
        if above is not None:
            counts[: above - _LOWEST + 1] = 0
            counts = counts if counts.any() else self.counts
        total = int(counts.sum())
        if total == 0:
            return ChannelStatistics(0.0, 0.0, 0.0, 0.0)
        values = np.arange(2**16, dtype=np.float64) + _LOWEST
        mean = float(counts @ values) / total
        std = float(np.sqrt(counts @ (values - mean) ** 2 / total))
        below = np.cumsum(counts)
        low, high = (values[np.searchsorted(below, percent / 100 * total)] for percent in (LOW_PERCENT, HIGH_PERCENT))
        return ChannelStatistics(mean, std, float(low), float(high))


def channel_statistics(image: np.ndarray, pad_values: Sequence[int]) -> tuple[ChannelStatistics, ...]:
    """Compute statistics of each channel of an image (C, D, H, W) int16, over the voxels above padding and over all.

    Args:
        image: a whole volume, as stored.
        pad_values: per channel; -1024 for CT, the lowest value otherwise.
    """
    found = []
    for channel, pad_value in zip(image, pad_values, strict=True):
        histogram = Histogram()
        histogram.add(channel)
        of_all = histogram.statistics()
        found.append(replace(histogram.statistics(above=pad_value), mean_of_all=of_all.mean, std_of_all=of_all.std))
    return tuple(found)
