"""What a heat map shall be: 1 at the center of each object, falling with the distance in mm.

The maps are made on the CPU, where the loop over objects waits for no device, and sent in one copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medpretrain3d.boxes import Targets, box_center, box_size
from medpretrain3d.configurable import Configurable
from medpretrain3d.detection.box_grid import Shape
from medpretrain3d.values import Positive

Spacing = tuple[float, float, float]
NEAR = 0.5
"""Value of the target from which a cell learns where its object is, and how large."""
END_IN_SIGMAS = 3.0


class HeatTarget(Configurable):
    """The value of a heat map at a distance from an object. Subclasses set `radius_mm` and implement the call.

    Example:
        >>> import numpy as np
        >>> from medpretrain3d.detection import HeatTarget
        >>> class Disk(HeatTarget):
        ...     radius_mm = 3.0
        ...     def __call__(self, distance_mm):
        ...         return (distance_mm < self.radius_mm).astype(float)
        >>> Disk()(np.array([1.0, 4.0]))
        array([1., 0.])
    """

    radius_mm: float
    """From here on the value is 0."""

    def __call__(self, distance_mm: np.ndarray) -> np.ndarray:
        """Return values in [0, 1] of the same shape, 1 at distance 0."""
        raise NotImplementedError("a HeatTarget subclass implements the call")


class BallTarget(HeatTarget):
    """The normalized distance transform of a ball: 1 in its middle, 0 at its surface, linear in between.

    Args:
        radius_mm: of the ball.

    Example:
        >>> import numpy as np
        >>> from medpretrain3d.detection import BallTarget
        >>> BallTarget(radius_mm=4.0)(np.array([0.0, 1, 4, 9]))
        array([1.  , 0.75, 0.  , 0.  ])
    """

    def __init__(self, radius_mm: Positive = 5.0) -> None:
        self.radius_mm = radius_mm

    def __call__(self, distance_mm: np.ndarray) -> np.ndarray:
        """See `HeatTarget`."""
        return np.clip(1 - distance_mm / self.radius_mm, 0, None)


class GaussianTarget(HeatTarget):
    """A Gaussian, 1 in its middle, that ends at three sigma.

    Args:
        sigma_mm: its standard deviation.

    Example:
        >>> import numpy as np
        >>> from medpretrain3d.detection import GaussianTarget
        >>> GaussianTarget(sigma_mm=2.0)(np.array([0.0, 2, 7])).round(3)
        array([1.   , 0.607, 0.   ])
    """

    def __init__(self, sigma_mm: Positive = 2.0) -> None:
        self.sigma_mm = sigma_mm
        self.radius_mm = END_IN_SIGMAS * sigma_mm

    def __call__(self, distance_mm: np.ndarray) -> np.ndarray:
        """See `HeatTarget`."""
        return np.where(distance_mm < self.radius_mm, np.exp(-((distance_mm / self.sigma_mm) ** 2) / 2), 0)


@dataclass(frozen=True)
class HeatMaps:
    """Targets of a batch on the CPU; cell `a` of image `b` is number `b * A + a`."""

    heat: Tensor
    """(B, K, A) float32."""
    counts: Tensor
    """(B, K, A) bool: False where finding something is ignored."""
    near: Tensor
    """(P,) cells that learn where their object is."""
    centers_vox: Tensor
    """(P, 3) float32, of its object."""
    sizes_vox: Tensor
    """(P, 3) float32, 0 where the object is a point."""


def heat_maps(
    targets: Sequence[Targets], shape: Shape, stride: Shape, spacing_mm: Spacing, num_classes: int, target: HeatTarget
) -> HeatMaps:
    """Draw the objects of a batch.

    Distances are those of a cell's center to the object's center, less that of the nearest cell, so that every object
    has a 1 however coarse the cells are, and mirrored objects have the mirrored map. Where objects meet, the larger
    value holds. In an ignore region cells count where an object is.

    Args:
        targets: of each image, on the CPU; boxes, or points.
        shape: cells (d, h, w).
        stride: voxels of a cell.
        spacing_mm: of a voxel.
        num_classes: channels.
        target: value at a distance.
    """
    images = [_draw(one, shape, stride, spacing_mm, num_classes, target) for one in targets]
    near = [torch.from_numpy(cells) + image * int(np.prod(shape)) for image, (_, _, cells, _) in enumerate(images)]
    boxes = torch.cat([one.boxes[torch.from_numpy(rows)] for one, (_, _, _, rows) in zip(targets, images, strict=True)])
    return HeatMaps(
        torch.from_numpy(np.stack([heat for heat, _, _, _ in images])),
        torch.from_numpy(np.stack([counts for _, counts, _, _ in images])),
        torch.cat(near),
        box_center(boxes),
        box_size(boxes),
    )


def _draw(
    one: Targets, shape: Shape, stride: Shape, spacing_mm: Spacing, num_classes: int, target: HeatTarget
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the maps (K, A) of an image, which cells count (K, A), and cells (P,) near objects (P,)."""
    axes = [(np.arange(count) + 0.5) * step for count, step in zip(shape, stride, strict=True)]
    heat = np.zeros((num_classes, *shape), dtype=np.float32)
    best, owner = np.zeros(shape), np.full(shape, -1)
    # The nearest cell is at most half a cell's diagonal away.
    reach_mm = target.radius_mm + float(np.linalg.norm(np.multiply(stride, spacing_mm))) / 2
    for row, (box, label) in enumerate(zip(one.boxes.double().numpy(), one.labels.tolist(), strict=True)):
        center = (box[:3] + box[3:]) / 2
        window, offsets_mm = [], []
        for axis, middle, edge_mm in zip(axes, center, spacing_mm, strict=True):
            first, last = np.searchsorted(axis, (middle - reach_mm / edge_mm, middle + reach_mm / edge_mm))
            first, last = min(int(first), len(axis) - 1), max(int(last), 1)
            window.append(slice(first, last))
            offsets_mm.append((axis[first:last] - middle) * edge_mm)
        place = tuple(window)
        d, h, w = offsets_mm
        distance_mm = np.sqrt((d**2)[:, None, None] + (h**2)[:, None] + w**2)
        value = target(distance_mm - distance_mm.min())
        heat[(label, *place)] = np.maximum(heat[(label, *place)], value)
        is_better = value > best[place]
        best[place] = np.where(is_better, value, best[place])
        owner[place] = np.where(is_better, row, owner[place])
    ignored = _ignored(axes, one.ignore)
    counts = (heat > 0) | ~ignored
    cells = np.flatnonzero(best >= NEAR)
    flat = (num_classes, -1)
    return heat.reshape(flat), counts.reshape(flat), cells, owner.ravel()[cells]


def _ignored(axes: Sequence[np.ndarray], regions: Tensor | None) -> np.ndarray:
    """Return whether the center of each cell (d, h, w) lies in an ignore region."""
    found = np.zeros(tuple(len(axis) for axis in axes), dtype=bool)
    for box in [] if regions is None else regions.numpy():
        d, h, w = ((axis >= low) & (axis < high) for axis, low, high in zip(axes, box[:3], box[3:], strict=True))
        found |= d[:, None, None] & h[:, None] & w
    return found
