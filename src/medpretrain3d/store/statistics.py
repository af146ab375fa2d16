"""Intensity statistics of a volume or a dataset, from exact histograms of its int16 values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NotRequired

import numpy as np
from pydantic import with_config
from typing_extensions import TypedDict

from medpretrain3d.documents import SCHEMA, Number

LOW_PERCENT, HIGH_PERCENT = 0.5, 99.5
CLIP_HU = (-1000, 1000)
"""Where intensities are cut before the mean and deviation of the clipped volume are taken."""
PERCENTS = (0.05, 0.5, 1.0, 99.0, 99.5, 99.95)
"""Percentiles that are measured over all voxels."""
MEASURED = ("above_lowest", "all", "clipped", "percentiles")
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
    mean_of_clipped: NotRequired[Number | None]
    std_of_clipped: NotRequired[Number | None]
    percentiles_of_all: NotRequired[list[Number] | None]


@dataclass(frozen=True)
class ChannelStatistics:
    """Intensity statistics of one channel, in stored units; all 0 where nothing was counted.

    The first four are of the voxels above what surrounds the patient, the others of every voxel: None in a case that
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
    mean_of_clipped: float | None = None
    """Of values cut at `CLIP_HU`."""
    std_of_clipped: float | None = None
    percentiles_of_all: tuple[float, ...] | None = None
    """At `PERCENTS`."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        percentiles = None if self.percentiles_of_all is None else list(self.percentiles_of_all)
        return asdict(self) | {"percentiles_of_all": percentiles}

    @staticmethod
    def from_json(document: StatisticsDocument) -> ChannelStatistics:
        """Read what `to_json` gave."""
        known: dict[str, Any] = {**document}
        percentiles = known.pop("percentiles_of_all", None)
        return ChannelStatistics(**known, percentiles_of_all=None if percentiles is None else tuple(percentiles))


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

    def clipped(self, low: int, high: int) -> tuple[float, float]:
        """Return mean and standard deviation of all values, cut at two limits."""
        values = np.clip(np.arange(2**16, dtype=np.float64) + _LOWEST, low, high)
        total = max(1, int(self.counts.sum()))
        mean = float(self.counts @ values) / total
        return mean, float(np.sqrt(self.counts @ (values - mean) ** 2 / total))

    def percentiles(self, percents: Sequence[float]) -> tuple[float, ...]:
        """Return the values at some percentiles, linear between neighbors as NumPy's; 0 where nothing was counted."""
        below = np.cumsum(self.counts)
        found = []
        for percent in percents:
            place = percent / 100 * max(0, int(below[-1]) - 1)
            first, after = (
                min(int(np.searchsorted(below, np.floor(place) + step, side="right")), 2**16 - 1) for step in (0, 1)
            )
            share = place - np.floor(place)
            found.append(float(first + (after - first) * share + _LOWEST) if below[-1] else 0.0)
        return tuple(found)


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
        mean_of_clipped, std_of_clipped = histogram.clipped(*CLIP_HU)
        found.append(
            replace(
                histogram.statistics(above=pad_value),
                mean_of_all=of_all.mean,
                std_of_all=of_all.std,
                mean_of_clipped=mean_of_clipped,
                std_of_clipped=std_of_clipped,
                percentiles_of_all=histogram.percentiles(PERCENTS),
            )
        )
    return tuple(found)
