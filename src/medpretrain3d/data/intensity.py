"""From Hounsfield units to network input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

import numpy as np
from torch import Tensor

from medpretrain3d.description import Described
from medpretrain3d.errors import UserError


@dataclass(frozen=True)
class Window(Described):
    """Maps a range of HU linearly to [-1, 1] and cuts what lies outside.

    The same window serves every image: normalising each image by itself would throw away what a Hounsfield unit means.

    Args:
        low_hu: becomes -1, as everything below.
        high_hu: becomes 1, as everything above.

    Raises:
        UserError: `low_hu` is not below `high_hu`.
    """

    low_hu: float = -1024
    high_hu: float = 1024

    def __post_init__(self) -> None:
        if not (np.isfinite([self.low_hu, self.high_hu]).all() and self.low_hu < self.high_hu):
            raise UserError(f"window {self.low_hu} .. {self.high_hu} HU: the first must be below the second")

    @overload
    def __call__(self, image: np.ndarray) -> np.ndarray: ...
    @overload
    def __call__(self, image: Tensor) -> Tensor: ...
    def __call__(self, image: np.ndarray | Tensor) -> np.ndarray | Tensor:
        """An image of any shape and numeric type as a new float32 one in [-1, 1]."""
        centre, half = (self.low_hu + self.high_hu) / 2, (self.high_hu - self.low_hu) / 2
        if isinstance(image, Tensor):
            return image.float().sub(centre).div_(half).clamp_(-1, 1)
        scaled = image.astype(np.float32)
        scaled -= np.float32(centre)
        scaled /= np.float32(half)
        return np.clip(scaled, -1, 1, out=scaled)
