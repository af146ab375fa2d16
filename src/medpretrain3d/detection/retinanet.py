"""RetinaNet in 3D: a backbone, a feature pyramid, and dense heads over anchors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from medpretrain3d.backbones.base import Backbone
from medpretrain3d.boxes import Detections, Targets, classwise_nms, clip_boxes, has_extent
from medpretrain3d.detection.anchors import AnchorGrid, Shape
from medpretrain3d.detection.base import Detector
from medpretrain3d.detection.classification_losses import ClassificationLoss, HardNegativeBCE
from medpretrain3d.detection.coder import BoxCoder
from medpretrain3d.detection.fpn import FPN
from medpretrain3d.detection.heads import BoxHead, ClassificationHead
from medpretrain3d.detection.labels import BACKGROUND, IGNORED
from medpretrain3d.detection.losses import diou_loss, giou_loss, l1_loss, smooth_l1_loss
from medpretrain3d.detection.matching import ATSSMatcher, Matcher, ignore_background
from medpretrain3d.errors import UserError
from medpretrain3d.processes import mean_over_samples
from medpretrain3d.values import Channels, LayersOrNone, NonNegative, Rows, Share

BOX_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "giou": giou_loss,
    "diou": diou_loss,
    "l1": l1_loss,
    "smooth_l1": smooth_l1_loss,
}


class RetinaNet(Detector):
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
        box_loss: on decoded boxes (`giou`, `diou`) or on deltas (`l1`, `smooth_l1`); mean over positive anchors.
        box_weight: factor of the box loss.
        score_threshold: detections below it are not returned.
        nms_iou: overlap within a class above which the lower score goes.
        candidates_per_image: best anchor-class pairs that are decoded and compared. Each object takes many: with 27
            anchors a cell and 60 lesions in a tile, 1,000 found 0.61 of them and 10,000 all.
        detections_per_image: detections returned at most.

    Raises:
        UserError: the backbone does not have the levels that `first_level` and `anchors` ask for.

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
        box_loss: Literal["giou", "diou", "l1", "smooth_l1"] = "giou",
        box_weight: NonNegative = 1.0,
        score_threshold: Share = 0.0,
        nms_iou: Share = 0.6,
        candidates_per_image: Rows = 10_000,
        detections_per_image: Rows = 100,
    ) -> None:
        super().__init__()
        num_levels = len(backbone.levels)
        if not 0 <= first_level <= num_levels - anchors.num_levels:
            raise UserError(
                f"anchors for {anchors.num_levels} levels from level {first_level} on, but the backbone has "
                f"{num_levels} levels; give fewer levels of anchors or a smaller first_level"
            )
        self.backbone = backbone
        self.num_classes = num_classes
        self.anchors = anchors
        self.coder = coder or BoxCoder()
        self.matcher = matcher or ATSSMatcher()
        self.classification = classification or HardNegativeBCE()
        self.box_loss = box_loss
        self.box_weight = box_weight
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.candidates_per_image = candidates_per_image
        self.detections_per_image = detections_per_image

        detection_levels = range(first_level, first_level + anchors.num_levels)
        self.strides = [backbone.levels[index].stride for index in detection_levels]
        self._build_neck(detection_levels, fpn_channels)
        self.classification_head = ClassificationHead(fpn_channels, anchors.per_cell, num_classes, head_convs)
        self.box_head = BoxHead(fpn_channels, anchors.per_cell, anchors.num_levels, head_convs)

    def _build_neck(self, detection_levels: range, channels: int) -> None:
        """The pyramid from the coarsest level down to the finest detection level, and nothing finer."""
        start = detection_levels.start
        levels = self.backbone.levels[start:]
        self.fpn = FPN(levels, [channels] * len(levels), [index - start for index in detection_levels])

    def losses(self, image: Tensor, targets: list[Targets]) -> dict[str, Tensor]:
        """Return `classification` and `boxes`, weighted scalars, for images (B, C, D, H, W)."""
        return self._box_losses(self._pyramid(image), self.valid_targets(targets))

    @torch.no_grad()
    def detect(self, image: Tensor) -> list[Detections]:
        """Detections of each image (B, C, D, H, W), clipped to it, suppressed within classes, best score first."""
        d, h, w = image.shape[2:]
        return self._detections(self._pyramid(image), (d, h, w))

    def outputs(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the raw head outputs of (B, C, D, H, W), not decoded: logits (B, A, K) and deltas (B, A, 6)."""
        pyramid = self._pyramid(image)
        return self.classification_head(pyramid), self.box_head(pyramid)

    def anchors_of(self, image: Tensor) -> Tensor:
        """Return the anchors (A, 6) that the outputs of an image of this size belong to."""
        return self.anchors(_shapes(self._pyramid(image)), self.strides, image.device)

    def _pyramid(self, image: Tensor) -> Sequence[Tensor]:
        """Return features (B, C, d, h, w) of the detection levels, finest first."""
        features = self.backbone(image)
        return self.fpn(features[len(features) - len(self.fpn.lateral) :])

    def _box_losses(self, pyramid: Sequence[Tensor], targets: list[Targets]) -> dict[str, Tensor]:
        logits, outputs = self.classification_head(pyramid), self.box_head(pyramid)  # (B, A, K), (B, A, 6)
        shapes = _shapes(pyramid)
        anchors = self.anchors(shapes, self.strides, outputs.device)
        per_level = self.anchors.per_level(shapes)

        labels, positive_outputs, positive_anchors, positive_boxes, all_finite = [], [], [], [], []
        for index, target in enumerate(targets):
            boxes, classes = target.boxes.to(anchors.device), target.labels.to(anchors.device)
            matched = self._matched(boxes, target.ignore, anchors, per_level)  # (A,)
            all_finite.append(self.finite_predictions(logits[index], outputs[index]))
            matched = matched.masked_fill(~all_finite[-1], IGNORED)
            positive = torch.nonzero(matched >= 0)[:, 0]
            of_anchor = matched.clamp(max=BACKGROUND)  # objects: their class follows; IGNORED stays
            of_anchor[positive] = classes[matched[positive]]
            labels.append(of_anchor)
            positive_outputs.append(outputs[index, positive])
            positive_anchors.append(anchors[positive])
            positive_boxes.append(boxes[matched[positive]])
        classification = self.classification(logits.flatten(0, 1), torch.cat(labels), len(targets))
        classification = self.where_any_is_finite(classification, torch.stack(all_finite))
        return {"classification": classification} | self._regression_losses(
            torch.cat(positive_outputs).float(), torch.cat(positive_anchors), torch.cat(positive_boxes)
        )

    def _matched(self, boxes: Tensor, ignore: Tensor | None, anchors: Tensor, per_level: list[int]) -> Tensor:
        matched = self.matcher(boxes, anchors, per_level, self.anchors.per_cell)
        if ignore is None or not len(ignore):
            return matched
        regions = ignore.to(anchors.device)
        as_objects = self.matcher(regions, anchors, per_level, self.anchors.per_cell)
        return ignore_background(matched, anchors, regions, as_objects)

    def _regression_losses(self, outputs: Tensor, anchors: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        """Named scalars of the positive anchors (P, 6) float32."""
        # The sum over no positives is 0 with a gradient of 0, so the box head takes part in every step.
        loss = self._box_loss(outputs, anchors, boxes).sum()
        return {"boxes": self.box_weight * mean_over_samples(loss, len(boxes))}

    def _box_loss(self, deltas: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
        """Return loss of each positive anchor (P,) float32."""
        formula = BOX_LOSSES[self.box_loss]
        if formula in (giou_loss, diou_loss):
            return formula(self.coder.decode(deltas, anchors), boxes)
        return formula(deltas, self.coder.encode(boxes, anchors))

    def _scores(self, logits: Tensor, outputs: Tensor) -> Tensor:
        """Return score of each class at each anchor (A, K) float32, of the heads' outputs (A, K) and (A, 6)."""
        return logits.sigmoid()

    def _detections(self, pyramid: Sequence[Tensor], image_shape: Shape) -> list[Detections]:
        logits, outputs = self.classification_head(pyramid).float(), self.box_head(pyramid).float()
        anchors = self.anchors(_shapes(pyramid), self.strides, outputs.device)
        return [self._of_image(*of_image, anchors, image_shape) for of_image in zip(logits, outputs, strict=True)]

    def _of_image(self, logits: Tensor, outputs: Tensor, anchors: Tensor, image_shape: Shape) -> Detections:
        finite = self.finite_predictions(logits, outputs)
        scores = self._scores(logits, outputs).masked_fill(~finite[:, None], -1.0)
        # Top-k before decoding: most anchors are background, and decoding is what costs.
        best = scores.flatten().topk(min(self.candidates_per_image, scores.numel()))
        anchor, label = best.indices // self.num_classes, best.indices % self.num_classes
        boxes = clip_boxes(self.coder.decode(outputs[anchor, :6], anchors[anchor]), image_shape)
        keep = (best.values >= max(0.0, self.score_threshold)) & has_extent(boxes)
        found = Detections(boxes, best.values, label)[torch.nonzero(keep)[:, 0]]
        return classwise_nms(found, self.nms_iou)[: self.detections_per_image]


def _shapes(pyramid: Sequence[Tensor]) -> list[Shape]:
    return [(level.shape[2], level.shape[3], level.shape[4]) for level in pyramid]
