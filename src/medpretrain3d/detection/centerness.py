"""Center-ness (Tian et al., 2019): how near a point is to the center of its object, learned beside the box.

A `PointHead` says it in its seventh value, `CenternessLoss` teaches it, `CenternessScores` reads it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medpretrain3d.boxes import box_center, box_size
from medpretrain3d.detection.box_losses import BoxLoss, RegressionLoss
from medpretrain3d.detection.coder import BoxCoder
from medpretrain3d.detection.post_processing import PostProcessing
from medpretrain3d.processes import mean_over_samples


class CenternessLoss(RegressionLoss):
    """A box loss weighted by center-ness, and the binary cross-entropy of the center-ness itself.

    Args:
        box_loss: of the six distances.
    """

    def __init__(self, box_loss: BoxLoss) -> None:
        self.box_loss = box_loss

    def __call__(self, outputs: Tensor, anchors: Tensor, boxes: Tensor, coder: BoxCoder) -> dict[str, Tensor]:
        """Return `boxes` and `centerness` of outputs (P, 7); see `RegressionLoss`."""
        points = box_center(anchors)
        truth = centerness(points, reaching(boxes, points))  # (P,)
        of_boxes = (self.box_loss.per_anchor(outputs[:, :6], anchors, boxes, coder) * truth).sum()
        of_centers = F.binary_cross_entropy_with_logits(outputs[:, 6], truth, reduction="sum")
        return {
            "boxes": self.box_loss.weight * mean_over_samples(of_boxes, truth.sum(), least=1e-6),
            "centerness": mean_over_samples(of_centers, len(truth)),
        }


class CenternessScores(PostProcessing):
    """Post-processing with the score `sqrt(class * center-ness)` (Tian et al., 2022)."""

    def scores(self, logits: Tensor, outputs: Tensor) -> Tensor:
        """Compute (A, K) of the heads' outputs (A, K) and (A, 7)."""
        return (logits.sigmoid() * outputs[:, 6:].sigmoid()).sqrt()

    def boxes(self, outputs: Tensor, anchors: Tensor, coder: BoxCoder) -> Tensor:
        """Decode (N, 6) of outputs (N, 7)."""
        return coder.decode(outputs[:, :6], anchors)


def reaching(boxes: Tensor, points: Tensor) -> Tensor:
    """Enlarge boxes (N, 6) to twice the distance of their point (N, 3) along each axis where it lies outside.

    An object that holds no centre of a cell is learned by points beside it, whose centre-ness would be 0: no box would
    be learned there and no score reach above 0. So it is at least 1/3 along such an axis.
    """
    center, half = box_center(boxes), box_size(boxes) / 2
    offset = (points - center).abs()
    half = torch.where(offset < half, half, 2 * offset)
    return torch.cat([center - half, center + half], dim=1)


def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """Compute the centerness of points (N, 3) in boxes (N, 6): (N,), 1 in the center, 0 on a side and outside.

    The geometric mean over axes of nearer by farther side (Tian et al., 2019, eq. 3, with three axes).
    """
    before, after = points - boxes[:, :3], boxes[:, 3:] - points
    ratio = torch.minimum(before, after).clamp(min=0) / torch.maximum(before, after)
    return ratio.prod(dim=1).pow(1 / 3)
