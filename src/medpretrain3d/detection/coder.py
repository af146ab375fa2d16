"""Boxes as offsets from anchors, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import MaxLen, MinLen
from torch import Tensor

from medpretrain3d.boxes import box_center, box_size, corners_of
from medpretrain3d.configurable import Configurable
from medpretrain3d.values import Positive


class BoxCoder(Configurable):
    """Deltas in units of the anchor (Girshick et al., 2014): `t = w (c - c_a) / e_a` and `t = w ln(e / e_a)`.

    Computes in float32 whatever comes in: bf16 turns 160.5 into 160.

    Args:
        weights: factors `w` of the six deltas: centre (d, h, w), then extent (d, h, w).
        max_ratio: largest extent ratio that decoding can produce; keeps `exp` finite early in training.

    Example:
        >>> import torch
        >>> from medpretrain3d.detection import BoxCoder
        >>> anchors, boxes = torch.tensor([[0.0, 0, 0, 4, 4, 4]]), torch.tensor([[1.0, 0, 0, 5, 4, 4]])
        >>> deltas = BoxCoder().encode(boxes, anchors)
        >>> deltas  # a quarter of the anchor along D
        tensor([[0.2500, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000]])
        >>> BoxCoder().decode(deltas, anchors)
        tensor([[1., 0., 0., 5., 4., 4.]])
    """

    def __init__(
        self,
        weights: Annotated[Sequence[Positive], MinLen(6), MaxLen(6)] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
        max_ratio: Positive = 1000 / 16,
    ) -> None:
        self.weights = tuple(float(weight) for weight in weights)
        self.max_log_ratio = math.log(max_ratio)

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Return deltas (N, 6) that take each anchor (N, 6) to its box (N, 6)."""
        center, extent = _center_extent(boxes)
        anchor_center, anchor_extent = _center_extent(anchors)
        shift = (center - anchor_center) / anchor_extent
        log_ratio = torch.log(extent / anchor_extent)
        return torch.cat([shift, log_ratio], dim=1) * self._weights_like(shift)

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Return boxes (N, 6) float32 that the deltas (N, 6) make of the anchors (N, 6)."""
        deltas = deltas.float()
        deltas = deltas / self._weights_like(deltas)
        anchor_center, anchor_extent = _center_extent(anchors)
        center = anchor_center + deltas[:, :3] * anchor_extent
        extent = anchor_extent * torch.exp(limited(deltas[:, 3:], self.max_log_ratio))
        return corners_of(center, extent)

    def _weights_like(self, deltas: Tensor) -> Tensor:
        return torch.tensor(self.weights).to(deltas.device, deltas.dtype, non_blocking=True)


class DistanceCoder(BoxCoder):
    """Logarithms of the distances from a cell's centre to the six sides, in cells (Tian et al., 2019, eq. 1).

    Args:
        weights: factors of the six logarithms: of the low sides (d, h, w), then of the high ones.
        max_ratio: largest distance that decoding can produce, in cells.

    Example:
        >>> import torch
        >>> from medpretrain3d.detection import DistanceCoder
        >>> cells, boxes = torch.tensor([[0.0, 0, 0, 4, 4, 4]]), torch.tensor([[-2.0, 0, 0, 6, 4, 4]])
        >>> deltas = DistanceCoder().encode(boxes, cells)
        >>> deltas.exp()  # in cells, from the center: one along D, half of one along H and W
        tensor([[1.0000, 0.5000, 0.5000, 1.0000, 0.5000, 0.5000]])
        >>> DistanceCoder().decode(deltas, cells)
        tensor([[-2.,  0.,  0.,  6.,  4.,  4.]])
    """

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Deltas (N, 6) of boxes (N, 6) around the centres of cells (N, 6); a side behind the centre counts as near."""
        low, high = boxes.float().split(3, dim=1)
        center, stride = _center_extent(anchors)
        distances = torch.cat([(center - low) / stride, (high - center) / stride], dim=1).clamp(min=0.01)
        return distances.log() * self._weights_like(distances)

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Return boxes (N, 6) float32 around the centres of cells (N, 6)."""
        deltas = deltas.float()
        deltas = deltas / self._weights_like(deltas)
        center, stride = _center_extent(anchors)
        before, after = limited(deltas, self.max_log_ratio).exp().split(3, dim=1)
        return torch.cat([center - before * stride, center + after * stride], dim=1)


def limited(values: Tensor, highest: float) -> Tensor:
    """Values cut at `highest`, with the gradient of values that are not: what is beyond can still be learned back."""
    return torch.where(values > highest, highest + (values - values.detach()), values)


def _center_extent(boxes: Tensor) -> tuple[Tensor, Tensor]:
    boxes = boxes.float()
    return box_center(boxes), box_size(boxes)
