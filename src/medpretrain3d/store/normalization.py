"""What a normalisation is, and the one computation that most are: stored intensities shifted, divided and cut."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np

from medpretrain3d.configurable import Configurable
from medpretrain3d.errors import UserError
from medpretrain3d.store.statistics import ChannelStatistics
from medpretrain3d.store.unit import Unit

if TYPE_CHECKING:  # a store opens without torch, which takes 200 MB of memory
    from torch import Tensor


class Measured(Protocol):
    """A volume of which a normalisation knows enough: a `Case` of a store, or a `Volume` in memory."""

    @property
    def unit(self) -> Unit:
        """Intensity unit of its values."""

    @property
    def statistics(self) -> Sequence[ChannelStatistics]:
        """Intensity statistics of each channel of the whole volume."""


class Normalization(Configurable, ABC):
    """Maps an image of any shape and numeric type to a new float32 one.

    One that needs to know the volume has to be fitted to it first, so that a crop is normalised with the volume's
    numbers: `normalization.fitted_to(case)(crop)`. The others are returned by `fitted` as they are.

    Example:
        >>> import numpy as np
        >>> from medpretrain3d.store import Normalization
        >>> class Halved(Normalization):
        ...     def __call__(self, image):
        ...         return image / 2
        >>> Halved()(np.array([2.0, 4.0]))
        array([1., 2.])
    """

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value}" for name, value in self._init_args.items())
        return f"{type(self).__name__}({arguments})"

    __repr__ = __str__  # within another one

    def of_unit(self, unit: Unit) -> Normalization:
        """Return the normalisation of volumes in this unit."""
        return self

    def suits(self, unit: Unit) -> bool:
        """Return whether its numbers mean anything to volumes in this unit."""
        return True

    def fitted_to(self, volume: Measured) -> Normalization:
        """Return the normalisation of one volume, be it a case of a store or a scan in memory."""
        return self.of_unit(volume.unit).fitted(volume.statistics)

    def fitted(self, statistics: Sequence[ChannelStatistics]) -> Normalization:
        """Return the normalisation of one volume, whose channels have these statistics."""
        return self

    @overload
    def __call__(self, image: np.ndarray) -> np.ndarray: ...
    @overload
    def __call__(self, image: Tensor) -> Tensor: ...
    @abstractmethod
    def __call__(self, image: Any) -> Any:
        """Normalise; the image is left alone."""


def scaled(image: Any, shift: Any, scale: Any, limits: tuple[Any, Any] = (-np.inf, np.inf)) -> Any:
    """`(image - shift) / scale` as float32, cut at the limits; of arrays each leading channel takes one number."""
    numbers = [np.atleast_1d(np.asarray(value, dtype=np.float32)) for value in (shift, scale, *limits)]
    if isinstance(image, np.ndarray):
        return _scaled_array(image, numbers)
    import torch

    if image.device.type == "cpu":
        return torch.from_numpy(_scaled_array(image.numpy(), numbers))
    shift, scale, low, high = (
        float(one[0]) if one.size == 1 else torch.from_numpy(one).to(image.device).view(-1, *(1,) * (image.ndim - 1))
        for one in numbers
    )
    return image.to(torch.float32, copy=True).sub_(shift).div_(scale).clamp_(low, high)


def _scaled_array(image: np.ndarray, numbers: Sequence[np.ndarray]) -> np.ndarray:
    from medpretrain3d.store.intensity_kernel import scale_and_cut  # numba takes half a second to import

    channels = max(one.size for one in numbers)
    if channels > 1 and len(image) != channels:
        raise UserError(f"image of {len(image)} channels for a normalisation of {channels}; give one number for each")
    scaled = np.empty(image.shape, np.float32)
    per_channel = [np.broadcast_to(one, channels) for one in numbers]
    scale_and_cut(np.ascontiguousarray(image).reshape(channels, -1), *per_channel, scaled.reshape(channels, -1))
    return scaled
