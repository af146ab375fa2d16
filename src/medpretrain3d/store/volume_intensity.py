"""Normalisations by numbers of each volume that public encoders were trained with, besides `ZScore`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medpretrain3d.errors import UserError
from medpretrain3d.store.intensity import OWN_RANGE, ForegroundZScore, PerChannel, Window
from medpretrain3d.store.normalization import Normalization
from medpretrain3d.store.statistics import CLIP_HU, PERCENTS, ChannelStatistics
from medpretrain3d.store.unit import Unit
from medpretrain3d.values import Real

NOT_MEASURED = (
    "the store was prepared before its numbers were measured; call `medpretrain3d prepare` on it again with the same "
    "options, or choose another window"
)


class ClippedZScore(Normalization):
    """Mean 0 and standard deviation 1 of each volume, measured over all its voxels after they were cut at two HU.

    Statistics are those of the volume before it is resampled.

    Args:
        low_hu: of what is measured, -1000.
        high_hu: 1000.

    Raises:
        UserError: other limits than stores measure.

    Example:
        >>> import numpy as np
        >>> from medpretrain3d.store import ClippedZScore
        >>> from medpretrain3d.store.statistics import channel_statistics
        >>> volume = np.array([[[[-2000, 1000]]]], dtype=np.int16)
        >>> ClippedZScore().fitted(channel_statistics(volume, [-1024]))(volume)
        array([[[[-1.,  1.]]]], dtype=float32)
    """

    def __init__(self, low_hu: Real = CLIP_HU[0], high_hu: Real = CLIP_HU[1]) -> None:
        if (low_hu, high_hu) != CLIP_HU:
            raise UserError(
                f"ClippedZScore: got {low_hu} .. {high_hu} HU, wanted {CLIP_HU[0]} .. {CLIP_HU[1]}, which is what "
                "stores measure; ForegroundZScore takes any limits with constants of your own"
            )
        self.low_hu, self.high_hu = low_hu, high_hu

    def suits(self, unit: Unit) -> bool:
        """Return whether its limits mean anything: in HU only."""
        return unit == "hu"

    def fitted(self, statistics: Sequence[ChannelStatistics]) -> ForegroundZScore:
        """With the numbers of one volume.

        Raises:
            UserError: the volume is of a store in which they were not measured.
        """
        means = [one.mean_of_clipped for one in statistics if one.mean_of_clipped is not None]
        stds = [one.std_of_clipped or 1.0 for one in statistics if one.std_of_clipped is not None]
        if not statistics or len(means) < len(statistics) or len(stds) < len(statistics):
            raise UserError(f"ClippedZScore: {NOT_MEASURED}")
        limits = [[limit] * len(means) for limit in (self.low_hu, self.high_hu)]
        return ForegroundZScore(limits[0], limits[1], means, stds)

    def __call__(self, image: Any) -> Any:
        """Refuse: a crop normalised by itself would look like any other.

        Raises:
            UserError: always.
        """
        raise UserError("ClippedZScore needs the volume's statistics: ClippedZScore().fitted_to(case)(crop)")


class PercentileWindow(Normalization):
    """Maps the values between two percentiles of each volume and channel linearly to [-1, 1] and cuts the others.

    Percentiles are those of all voxels of the volume before it is resampled, as those of MONAI's
    `ScaleIntensityRangePercentiles`.

    Args:
        low_percent: 0.05, 0.5 or 1.
        high_percent: 99, 99.5 or 99.95.
        output_range: what the two become.

    Raises:
        UserError: another percentile than stores measure, or the output range is none.

    Example:
        >>> import numpy as np
        >>> from medpretrain3d.store import PercentileWindow
        >>> from medpretrain3d.store.statistics import channel_statistics
        >>> volume = np.arange(101, dtype=np.int16)[None, :, None, None]
        >>> PercentileWindow(1, 99).fitted(channel_statistics(volume, [0]))(volume)[0, [0, 50, 100], 0, 0]
        array([-1.,  0.,  1.], dtype=float32)
    """

    def __init__(
        self, low_percent: Real = 0.05, high_percent: Real = 99.95, output_range: tuple[Real, Real] = OWN_RANGE
    ) -> None:
        if low_percent not in PERCENTS or high_percent not in PERCENTS or not low_percent < high_percent:
            raise UserError(
                f"PercentileWindow: got {low_percent} .. {high_percent}, wanted two of those that stores measure: "
                f"{', '.join(map(str, PERCENTS))}"
            )
        if not output_range[0] < output_range[1]:
            raise UserError(f"PercentileWindow: output_range {output_range}: the first must be below the second")
        self.places = [PERCENTS.index(low_percent), PERCENTS.index(high_percent)]
        self.output_range = output_range

    def fitted(self, statistics: Sequence[ChannelStatistics]) -> PerChannel:
        """With the numbers of one volume.

        Raises:
            UserError: the volume is of a store in which they were not measured.
        """
        windows = []
        for one in statistics:
            if one.percentiles_of_all is None:
                raise UserError(f"PercentileWindow: {NOT_MEASURED}")
            low, high = (one.percentiles_of_all[place] for place in self.places)
            windows.append(Window(low, high if high > low else low + 1, self.output_range))
        return PerChannel(windows)

    def __call__(self, image: Any) -> Any:
        """Refuse: a crop normalised by itself would look like any other.

        Raises:
            UserError: always.
        """
        raise UserError("PercentileWindow needs the volume's statistics: PercentileWindow().fitted_to(case)(crop)")
