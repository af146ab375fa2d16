"""From stored intensities to network input. Each of these is plain data in an encoder file or a bundle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.store.normalization import Normalization, scaled
from medpretrain3d.store.statistics import ChannelStatistics
from medpretrain3d.store.unit import Unit
from medpretrain3d.values import Finite, Real, Unchecked

if TYPE_CHECKING:  # a store opens without torch, which takes 200 MB of memory
    pass


Numbers = Real | Sequence[Real]


OWN_RANGE = (-1.0, 1.0)


@dataclass(frozen=True)
class Window(Normalization):
    """Maps a range of HU linearly to [-1, 1] and cuts what lies outside.

    The same window serves every image: normalising each image by itself would throw away what a Hounsfield unit means.

    Args:
        low_hu: becomes -1, as everything below.
        high_hu: becomes 1, as everything above.
        output_range: what they become instead, such as 0 and 1 for a network that was trained so: its convolutions pad
            with zeros, which are air then.

    Raises:
        UserError: `low_hu` is not below `high_hu`, or the output range is none.

    Example:
        >>> import numpy as np
        >>> from medpretrain3d.store import Window
        >>> Window(low_hu=-1000, high_hu=1000)(np.array([-2000, 0, 500], dtype=np.int16))
        array([-1. ,  0. ,  0.5], dtype=float32)
    """

    low_hu: Real = -1024
    high_hu: Real = 1024
    output_range: tuple[Real, Real] = OWN_RANGE

    def __post_init__(self) -> None:
        """Refuse a window without width."""
        low, high = self.output_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise UserError(f"window: output_range {low} .. {high}: the first must be below the second")
        if (low, high) == OWN_RANGE:
            self._init_args.pop("output_range", None)  # files of such windows stay as earlier versions read them
        if not (math.isfinite(self.low_hu) and math.isfinite(self.high_hu) and self.low_hu < self.high_hu):
            raise UserError(f"window {self.low_hu} .. {self.high_hu} HU: the first must be below the second")

    def suits(self, unit: Unit) -> bool:
        """Only HU."""
        return unit == "hu"

    def __call__(self, image: Any) -> Any:
        """Clip to the window and scale to the output range."""
        low, high = self.output_range
        width = (self.high_hu - self.low_hu) / (high - low)  # HU per step of 1
        center = (self.low_hu + self.high_hu) / 2 - (low + high) / 2 * width  # HU that become 0
        return scaled(image, center, width, (low, high))


WindowName = Literal["lung", "soft_tissue", "bone", "full"]
WINDOWS_HU: dict[WindowName, tuple[float, float]] = {
    "lung": (-1350, 150),  # width 1500, level -600
    "soft_tissue": (-160, 240),  # width 400, level 40
    "bone": (-450, 1050),  # width 1500, level 300
    "full": (-1024, 3071),  # 12 bits: all that a CT scanner writes
}


class NamedWindow(Window):
    """A window that radiologists call by name.

    Args:
        name: `lung` (-1350 .. 150 HU), `soft_tissue` (-160 .. 240), `bone` (-450 .. 1050) or `full` (-1024 .. 3071).

    Raises:
        UserError: there is no such window.
    """

    def __init__(self, name: Annotated[WindowName, Unchecked()]) -> None:
        if name not in WINDOWS_HU:
            raise UserError(f"window '{name}': wanted one of {', '.join(WINDOWS_HU)}, or Window(low_hu, high_hu)")
        super().__init__(*WINDOWS_HU[name])


class ForegroundZScore(Normalization):
    """Cuts at two percentiles of the data set's foreground and divides by its standard deviation.

    nnDetection's and nnU-Net's normalisation of CT (Baumgartner et al., 2021): percentiles 0.5 and 99.5, mean and
    standard deviation of the voxels inside objects of all training cases. `store/foreground.py` measures them; here
    they are constants, so that every later image is treated alike. One number a channel, or one for all channels.

    Args:
        low: percentile 0.5.
        high: percentile 99.5.
        mean: becomes 0.
        std: becomes 1.

    Raises:
        UserError: lists of different lengths, `low` not below `high`, or a standard deviation that is not positive.
    """

    def __init__(
        self,
        low: Numbers,
        high: Numbers,
        mean: Numbers,
        std: Numbers,
    ) -> None:
        self.low, self.high, self.mean, self.std = (
            np.atleast_1d(value).astype(float) for value in (low, high, mean, std)
        )
        if len({len(one) for one in (self.low, self.high, self.mean, self.std)}) > 1:
            raise UserError("foreground statistics: low, high, mean and std have different numbers of channels")
        is_finite = all(np.isfinite(one).all() for one in (self.low, self.high, self.mean, self.std))
        if not (is_finite and (self.low < self.high).all() and (self.std > 0).all()):
            raise UserError(
                f"foreground statistics: low {self.low.tolist()} must be below high {self.high.tolist()}, "
                f"std {self.std.tolist()} above 0"
            )

    def suits(self, unit: Unit) -> bool:
        """Return its constants are HU."""
        return unit == "hu"

    def __call__(self, image: Any) -> Any:
        """Return an image (C, ...); with one number per statistic of any shape."""
        return scaled(
            image, self.mean, self.std, ((self.low - self.mean) / self.std, (self.high - self.mean) / self.std)
        )


class ZScore(Normalization):
    """Mean 0 and standard deviation 1 within each volume and channel, for MR, whose values have no unit.

    Statistics are those of the volume before it is resampled. They do not change when the values of a channel are
    stretched, so a channel that the store had to rescale comes out the same.

    Args:
        voxels: which ones are measured: those `above_lowest` value of the channel (in HU: above air), so that air does
            not weigh, or `all`, as ZScoreNormalization of nnU-Net and nnssl does (nnFoundation's is one).

    Raises:
        UserError: another choice of voxels.
    """

    def __init__(self, voxels: Annotated[Literal["above_lowest", "all"], Unchecked()] = "above_lowest") -> None:
        if voxels not in ("above_lowest", "all"):
            raise UserError(f"ZScore over '{voxels}' voxels: wanted above_lowest or all")
        self.voxels = voxels

    def fitted(self, statistics: Sequence[ChannelStatistics]) -> FittedZScore:
        """With the numbers of one volume.

        Raises:
            UserError: the volume is of a store in which only voxels above the lowest were measured.
        """
        if self.voxels == "above_lowest":
            return FittedZScore([one.mean for one in statistics], [one.std for one in statistics])
        if any(one.mean_of_all is None or one.std_of_all is None for one in statistics):
            raise UserError(
                "ZScore over all voxels: the store was prepared before these were measured; call `medpretrain3d "
                "prepare` on it again with the same options, or use ZScore over voxels above_lowest"
            )
        return FittedZScore(
            [one.mean_of_all or 0.0 for one in statistics], [one.std_of_all or 0.0 for one in statistics]
        )

    def __call__(self, image: Any) -> Any:
        """Refuse: a crop normalised by itself would look like any other.

        Raises:
            UserError: always.
        """
        raise UserError("ZScore needs the volume's statistics: ZScore().fitted_to(case)(crop)")


class FittedZScore(Normalization):
    """`ZScore` of one volume.

    Args:
        mean: per channel.
        std: per channel; 0 for a constant channel, which becomes 0.
    """

    def __init__(self, mean: Sequence[Finite], std: Sequence[Finite]) -> None:
        self.mean = np.array(mean, dtype=float)
        self.std = np.array([one or 1.0 for one in std], dtype=float)

    def __call__(self, image: Any) -> Any:
        """Return an image (C, ...)."""
        return scaled(image, self.mean, self.std)


class PerUnit(Normalization):
    """One normalisation for volumes in HU and another for those whose values have no unit: CT and MR used together.

    Args:
        hu: for stores in HU.
        other: for stores in any other unit.
    """

    def __init__(self, hu: Normalization | None = None, other: Normalization | None = None) -> None:
        self.hu = hu or Window()
        self.other = other or ZScore()

    def of_unit(self, unit: Unit) -> Normalization:
        """That of the unit."""
        return (self.hu if unit == "hu" else self.other).of_unit(unit)

    def suits(self, unit: Unit) -> bool:
        """Return whether that of the unit does."""
        return self.of_unit(unit).suits(unit)

    def fitted(self, statistics: Sequence[ChannelStatistics]) -> Normalization:
        """Refuse: statistics do not tell the unit.

        Raises:
            UserError: always.
        """
        raise UserError("PerUnit needs to know the volume's unit: PerUnit().fitted_to(case)(crop)")

    def __call__(self, image: Any) -> Any:
        """Refuse: a crop does not tell its unit.

        Raises:
            UserError: always.
        """
        raise UserError("PerUnit needs to know the volume's unit: PerUnit().fitted_to(case)(crop)")


class PerChannel(Normalization):
    """One normalisation per channel, as a lung and a soft tissue window of a scan given twice, or PET beside CT.

    Args:
        channels: in the order of the channels.
    """

    def __init__(self, channels: Sequence[Normalization]) -> None:
        self.channels = tuple(channels)

    def of_unit(self, unit: Unit) -> Self:
        """Return each channel's own."""
        return type(self)([channel.of_unit(unit) for channel in self.channels])

    def suits(self, unit: Unit) -> bool:
        """Return whether all channels' do."""
        return all(channel.suits(unit) for channel in self.channels)

    def fitted(self, statistics: Sequence[ChannelStatistics]) -> Self:
        """Return each channel fitted to its own statistics.

        Raises:
            UserError: the volume has another number of channels.
        """
        self._check(len(statistics))
        pairs = zip(self.channels, statistics, strict=True)
        return type(self)([channel.fitted([its]) for channel, its in pairs])

    def __call__(self, image: Any) -> Any:
        """Return an image (C, ...).

        Raises:
            UserError: it has another number of channels.
        """
        self._check(len(image))
        parts = [channel(image[index : index + 1]) for index, channel in enumerate(self.channels)]
        if isinstance(image, np.ndarray):
            return np.concatenate(parts)
        import torch

        return torch.cat(parts)

    def _check(self, num_channels: int) -> None:
        if num_channels != len(self.channels):
            raise UserError(
                f"image of {num_channels} channels for {len(self.channels)} normalisations; give one for each"
            )
