"""FCOS in 3D: a detector without anchors, from the points of a pyramid to the sides of boxes."""

from __future__ import annotations

from typing import Literal

from medpretrain3d.backbones.base import Backbone
from medpretrain3d.detection.box_losses import BoxLoss, box_loss_of
from medpretrain3d.detection.centerness import CenternessLoss, CenternessScores
from medpretrain3d.detection.classification_losses import ClassificationLoss, FocalLoss
from medpretrain3d.detection.coder import DistanceCoder
from medpretrain3d.detection.dense import DenseDetector
from medpretrain3d.detection.fpn import FPN
from medpretrain3d.detection.heads import BoxHead, ClassificationHead, PointHead
from medpretrain3d.detection.mask_head import InstanceMasks
from medpretrain3d.detection.matching import Matcher
from medpretrain3d.detection.point_matching import CenterSampling
from medpretrain3d.detection.points import PointGrid
from medpretrain3d.errors import UserError
from medpretrain3d.values import Channels, Layers, LayersOrNone, NonNegative, Rows, Share


class FCOS(DenseDetector):
    """Every cell of the pyramid predicts classes, the distances to six sides, and its centre-ness (Tian et al., 2019).

    No anchor sizes to choose, and one prediction per cell: fit for small lesions on a fine level. Scores are
    `sqrt(class * center-ness)` (Tian et al., 2022).

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
        box_loss: on boxes, by name or as a `BoxLoss`; mean over the positive points, weighted by their centre-ness.
        box_weight: factor of a box loss given by name.
        score_threshold: detections below it are not returned.
        nms_iou: overlap within a class above which the lower score goes.
        candidates_per_image: best point-class pairs that are decoded and compared.
        detections_per_image: detections returned at most.
        masks: a head for the masks of objects, `InstanceMasks()`; `None` for none.

    Raises:
        UserError: the backbone does not have the levels asked for, or a `BoxLoss` and a `box_weight` are given.

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
        box_loss: Literal["giou", "diou"] | BoxLoss = "giou",
        box_weight: NonNegative = 1.0,
        score_threshold: Share = 0.0,
        nms_iou: Share = 0.6,
        candidates_per_image: Rows = 10_000,
        detections_per_image: Rows = 100,
        masks: InstanceMasks | None = None,
    ) -> None:
        num_there = max(0, len(backbone.levels) - first_level)
        if not 1 <= (num_levels or num_there) <= num_there:
            raise UserError(
                f"{num_levels or 'all'} levels from level {first_level} on, but the backbone has "
                f"{len(backbone.levels)} levels; give fewer levels or a smaller first_level"
            )
        points = PointGrid(num_levels or num_there)
        neck = FPN.down_to(backbone.levels, first_level, points.num_levels, fpn_channels)
        classification_head = ClassificationHead(fpn_channels, points.per_cell, num_classes, head_convs)
        # Only drawn: a seed gives the weights that it always gave, when a box head came before the point head.
        BoxHead(fpn_channels, points.per_cell, points.num_levels, head_convs)
        super().__init__(
            backbone,
            num_classes,
            points,
            first_level,
            neck=neck,
            classification_head=classification_head,
            box_head=PointHead(fpn_channels, points.num_levels, head_convs),
            coder=DistanceCoder(),
            matcher=matcher or CenterSampling(),
            classification=classification or FocalLoss(),
            box_loss=CenternessLoss(box_loss_of(box_loss, box_weight)),
            post_processing=CenternessScores(score_threshold, nms_iou, candidates_per_image, detections_per_image),
            masks=masks,
        )
