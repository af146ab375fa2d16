"""FCOS in 3D: a detector without anchors, from the points of a pyramid to the sides of boxes."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from medpretrain3d.backbones.base import Backbone
from medpretrain3d.boxes import box_center, box_size
from medpretrain3d.detection.anchors import AnchorGrid
from medpretrain3d.detection.classification_losses import ClassificationLoss, FocalLoss
from medpretrain3d.detection.coder import DistanceCoder
from medpretrain3d.detection.heads import PointHead
from medpretrain3d.detection.matching import Matcher
from medpretrain3d.detection.point_matching import CenterSampling
from medpretrain3d.detection.retinanet import RetinaNet
from medpretrain3d.errors import UserError
from medpretrain3d.processes import mean_over_samples
from medpretrain3d.values import Channels, Layers, LayersOrNone, NonNegative, Rows, Share


class FCOS(RetinaNet):
    """Every cell of the pyramid predicts classes, the distances to six sides, and its centre-ness (Tian et al., 2019).

    No anchor sizes to choose, and one prediction per cell: fit for small lesions on a fine level. The network is that
    of `RetinaNet`; the cell takes the place of the anchor. Scores are `sqrt(class * centre-ness)` (Tian et al., 2022).

    Args:
        backbone: any backbone.
        num_classes: foreground classes; background is not one of them.
        first_level: index into `backbone.levels` of the finest detection level.
        num_levels: detection levels; `None` is all from `first_level` on. 1 with `NearestPoints` as the matcher is
            CPM-Net (Song et al., 2020).
        fpn_channels: width of the pyramid and the heads.
        head_convs: convolutions in each head before its output convolution.
        matcher: objects to points; `None` is `CenterSampling()`.
        classification: loss over points; `None` is `FocalLoss()`.
        box_loss: on boxes; mean over the positive points, weighted by their centre-ness.
        box_weight: factor of the box loss.
        score_threshold: detections below it are not returned.
        nms_iou: overlap within a class above which the lower score goes.
        candidates_per_image: best point-class pairs that are decoded and compared.
        detections_per_image: detections returned at most.

    Raises:
        UserError: the backbone does not have the levels asked for.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.boxes import Targets
        >>> from medpretrain3d.detection import FCOS
        >>> detector = FCOS(ResEnc("XXS"), num_classes=1, fpn_channels=16, head_convs=1)
        >>> image = torch.rand(1, 1, 16, 16, 16)
        >>> targets = Targets(boxes=torch.tensor([[2.0, 2, 2, 8, 8, 8]]), labels=torch.tensor([0]))
        >>> losses = detector.losses(image, [targets])
        >>> sorted(losses)
        ['boxes', 'centerness', 'classification']
        >>> with torch.no_grad():
        ...     detections = detector.eval().detect(image)
        >>> len(detections), detections[0].boxes.shape[1]
        (1, 6)
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: Channels,
        first_level: LayersOrNone = 2,
        num_levels: Layers | None = None,
        fpn_channels: Channels = 128,
        head_convs: LayersOrNone = 4,
        matcher: Matcher | None = None,
        classification: ClassificationLoss | None = None,
        box_loss: Literal["giou", "diou"] = "giou",
        box_weight: NonNegative = 1.0,
        score_threshold: Share = 0.0,
        nms_iou: Share = 0.6,
        candidates_per_image: Rows = 10_000,
        detections_per_image: Rows = 100,
    ) -> None:
        strides = [level.stride for level in backbone.levels[first_level:]]
        if not 1 <= (num_levels or len(strides)) <= len(strides):
            raise UserError(
                f"{num_levels or 'all'} levels from level {first_level} on, but the backbone has "
                f"{len(backbone.levels)} levels; give fewer levels or a smaller first_level"
            )
        super().__init__(
            backbone,
            num_classes,
            AnchorGrid([[stride] for stride in strides[:num_levels]]),
            first_level=first_level,
            fpn_channels=fpn_channels,
            head_convs=head_convs,
            coder=DistanceCoder(),
            matcher=matcher or CenterSampling(),
            classification=classification or FocalLoss(),
            box_loss=box_loss,
            box_weight=box_weight,
            score_threshold=score_threshold,
            nms_iou=nms_iou,
            candidates_per_image=candidates_per_image,
            detections_per_image=detections_per_image,
        )
        self.box_head = PointHead(fpn_channels, self.anchors.num_levels, head_convs)

    def _regression_losses(self, outputs: Tensor, anchors: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        points = box_center(anchors)
        truth = centerness(points, reaching(boxes, points))  # (P,)
        of_boxes = (self._box_loss(outputs[:, :6], anchors, boxes) * truth).sum()
        of_centers = F.binary_cross_entropy_with_logits(outputs[:, 6], truth, reduction="sum")
        return {
            "boxes": self.box_weight * mean_over_samples(of_boxes, truth.sum(), least=1e-6),
            "centerness": mean_over_samples(of_centers, len(truth)),
        }

    def _scores(self, logits: Tensor, outputs: Tensor) -> Tensor:
        return (logits.sigmoid() * outputs[:, 6:].sigmoid()).sqrt()


def reaching(boxes: Tensor, points: Tensor) -> Tensor:
    """Boxes (N, 6), made twice as large as the distance of their point (N, 3) along each axis where it lies outside.

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
