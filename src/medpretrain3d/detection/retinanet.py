"""RetinaNet in 3D: a backbone, a feature pyramid, and dense heads over anchors."""

from __future__ import annotations

from medpretrain3d.backbones.base import Backbone
from medpretrain3d.detection.anchors import AnchorGrid
from medpretrain3d.detection.box_losses import BoxLoss, BoxLossName, box_loss_of
from medpretrain3d.detection.classification_losses import ClassificationLoss, HardNegativeBCE
from medpretrain3d.detection.coder import BoxCoder
from medpretrain3d.detection.dense import DenseDetector
from medpretrain3d.detection.fpn import FPN
from medpretrain3d.detection.heads import BoxHead, ClassificationHead
from medpretrain3d.detection.mask_head import InstanceMasks
from medpretrain3d.detection.matching import ATSSMatcher, Matcher
from medpretrain3d.detection.post_processing import PostProcessing
from medpretrain3d.errors import UserError
from medpretrain3d.values import Channels, LayersOrNone, NonNegative, Rows, Share


class RetinaNet(DenseDetector):
    """One-stage detector over anchors (Lin et al., 2017) with the training recipe of nnDetection (Baumgartner, 2021).

    Args:
        backbone: any backbone.
        num_classes: foreground classes; background is not one of them.
        anchors: sizes per detection level; their number of levels is the number of detection levels.
        first_level: index into `backbone.levels` of the finest detection level. The pyramid always starts from the
            backbone's coarsest level.
        fpn_channels: width of the pyramid and the heads.
        head_convs: convolutions in each head before its output convolution.
        coder: boxes to deltas and back; `None` is `BoxCoder()`.
        matcher: objects to anchors; `None` is `ATSSMatcher()`.
        classification: loss over anchors; `None` is `HardNegativeBCE()`.
        box_loss: on decoded boxes (`giou`, `diou`) or on deltas (`l1`, `smooth_l1`), or a `BoxLoss`; mean over positive
            anchors.
        box_weight: factor of a box loss given by name.
        score_threshold: detections below it are not returned.
        nms_iou: overlap within a class above which the lower score goes.
        candidates_per_image: best anchor-class pairs that are decoded and compared. Each object takes many: with 27
            anchors a cell and 60 lesions in a tile, 1,000 found 0.61 of them and 10,000 all.
        detections_per_image: detections returned at most.
        masks: a head for the masks of objects, `InstanceMasks()`; `None` for none.

    Raises:
        UserError: the backbone does not have the levels that `first_level` and `anchors` ask for, or a `BoxLoss` and a
            `box_weight` are given.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.boxes import Targets
        >>> from medpretrain3d.detection import AnchorGrid, RetinaNet
        >>> anchors = AnchorGrid([[(4, 4, 4)], [(8, 8, 8)]])
        >>> detector = RetinaNet(ResEnc("XXS"), num_classes=1, anchors=anchors, fpn_channels=16)
        >>> image = torch.rand(1, 1, 16, 16, 16)
        >>> targets = Targets(boxes=torch.tensor([[2.0, 2, 2, 8, 8, 8]]), labels=torch.tensor([0]))
        >>> losses = detector.losses(image, [targets])
        >>> sorted(losses)
        ['boxes', 'classification']
        >>> with torch.no_grad():
        ...     detections = detector.eval().detect(image)
        >>> len(detections), detections[0].boxes.shape[1]
        (1, 6)
    """

    fpn: FPN

    def __init__(
        self,
        backbone: Backbone,
        num_classes: Channels,
        anchors: AnchorGrid,
        first_level: LayersOrNone = 2,
        fpn_channels: Channels = 128,
        head_convs: LayersOrNone = 2,
        coder: BoxCoder | None = None,
        matcher: Matcher | None = None,
        classification: ClassificationLoss | None = None,
        box_loss: BoxLossName | BoxLoss = "giou",
        box_weight: NonNegative = 1.0,
        score_threshold: Share = 0.0,
        nms_iou: Share = 0.6,
        candidates_per_image: Rows = 10_000,
        detections_per_image: Rows = 100,
        masks: InstanceMasks | None = None,
    ) -> None:
        num_levels = len(backbone.levels)
        if not 0 <= first_level <= num_levels - anchors.num_levels:
            raise UserError(
                f"anchors for {anchors.num_levels} levels from level {first_level} on, but the backbone has "
                f"{num_levels} levels; give fewer levels of anchors or a smaller first_level"
            )
        super().__init__(
            backbone,
            num_classes,
            anchors,
            first_level,
            neck=self._neck(backbone, first_level, anchors.num_levels, fpn_channels),
            classification_head=ClassificationHead(fpn_channels, anchors.per_cell, num_classes, head_convs),
            box_head=BoxHead(fpn_channels, anchors.per_cell, anchors.num_levels, head_convs),
            coder=coder or BoxCoder(),
            matcher=matcher or ATSSMatcher(),
            classification=classification or HardNegativeBCE(),
            box_loss=box_loss_of(box_loss, box_weight),
            post_processing=PostProcessing(score_threshold, nms_iou, candidates_per_image, detections_per_image),
            masks=masks,
        )

    @staticmethod
    def _neck(backbone: Backbone, first_level: int, num_levels: int, channels: int) -> FPN:
        return FPN.down_to(backbone.levels, first_level, num_levels, channels)
