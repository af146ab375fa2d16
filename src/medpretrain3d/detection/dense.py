"""Dense detection: classes and a box predicted at every cell of a feature pyramid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from medpretrain3d.backbones.base import Backbone
from medpretrain3d.boxes import Detections, Targets
from medpretrain3d.detection.assignment import Assignment, assign
from medpretrain3d.detection.base import Detector, Part, finite_rows, targets_to_host
from medpretrain3d.detection.box_grid import BoxGrid, Shape
from medpretrain3d.detection.box_losses import RegressionLoss
from medpretrain3d.detection.classification_losses import ClassificationLoss
from medpretrain3d.detection.coder import BoxCoder
from medpretrain3d.detection.fpn import Neck
from medpretrain3d.detection.heads import Head
from medpretrain3d.detection.labels import IGNORED
from medpretrain3d.detection.mask_head import InstanceMasks
from medpretrain3d.detection.matching import Matcher
from medpretrain3d.detection.post_processing import PostProcessing
from medpretrain3d.transfer import to_host
from medpretrain3d.values import Channels, LayersOrNone


class DenseDetector(Detector, is_base=True):
    """A backbone, a neck and two heads over its levels; what they say is matched, learned and decoded by other parts.

    `RetinaNet` and `FCOS` are choices of parts. So is a detector of your own: a subclass whose constructor takes plain
    values and `Configurable` objects, so that a bundle can rebuild it, and hands parts on to this one.

    Args:
        backbone: any backbone.
        num_classes: foreground classes; background is not one of them.
        anchors: the boxes that predictions are made at; as many levels as the neck returns.
        first_level: index into `backbone.levels` of the finest detection level.
        neck: from the backbone's features to those of the detection levels, both finest first.
        classification_head: from the detection levels to logits (B, A, K) in the order of `anchors`.
        box_head: from them to values (B, A, V) that `box_loss` and `post_processing` read, six deltas first.
        coder: boxes to deltas and back.
        matcher: objects to anchors.
        classification: loss over anchors.
        box_loss: loss of the values of positive anchors.
        post_processing: from logits and values to detections.
        masks: a head for the masks of objects, beside the boxes; `None` for none.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.boxes import Targets
        >>> from medpretrain3d.detection import ATSSMatcher, AnchorGrid, BoxCoder, FocalLoss, L1Loss, PostProcessing
        >>> from medpretrain3d.detection.dense import DenseDetector
        >>> from medpretrain3d.detection.fpn import FPN
        >>> from medpretrain3d.detection.heads import BoxHead, ClassificationHead
        >>> backbone = ResEnc("XXS")
        >>> detector = DenseDetector(
        ...     backbone, num_classes=1, anchors=AnchorGrid([[(8, 8, 8)]]), first_level=2,
        ...     neck=FPN.down_to(backbone.levels, 2, num_outputs=1, channels=16),
        ...     classification_head=ClassificationHead(16, anchors_per_cell=1, num_classes=1, num_convs=1),
        ...     box_head=BoxHead(16, anchors_per_cell=1, num_levels=1, num_convs=1),
        ...     coder=BoxCoder(), matcher=ATSSMatcher(), classification=FocalLoss(), box_loss=L1Loss(),
        ...     post_processing=PostProcessing(0.0, 0.5, candidates_per_image=100, detections_per_image=10),
        ... )
        >>> targets = Targets(boxes=torch.tensor([[2.0, 2, 2, 8, 8, 8]]), labels=torch.tensor([0]))
        >>> sorted(detector.losses(torch.rand(1, 1, 16, 16, 16), [targets]))
        ['boxes', 'classification']
    """

    parts: ClassVar[Mapping[str, Part]] = {
        "fpn.": "neck",
        "box_head.": "box",
        "mask_head.": "box",
        "classification_head.": "class",
        "classification_head.output.": "labels",
    }
    shaped_by_anchors: ClassVar[tuple[str, ...]] = ("box_head.output.", "box_head.scale", "classification_head.output.")
    behind_layers: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("box_head.output.", "box_head.scale", "box_head.centerness."), "box_head.tower."),
        "classification_head.output.": "classification_head.tower.",
        **dict.fromkeys(("mask_head.upsample.", "mask_head.output."), "mask_head.tower."),
    }

    def __init__(
        self,
        backbone: Backbone,
        num_classes: Channels,
        anchors: BoxGrid,
        first_level: LayersOrNone,
        neck: Neck,
        classification_head: Head,
        box_head: Head,
        coder: BoxCoder,
        matcher: Matcher,
        classification: ClassificationLoss,
        box_loss: RegressionLoss,
        post_processing: PostProcessing,
        masks: InstanceMasks | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.anchors = anchors
        self.first_level = first_level
        self.strides = [level.stride for level in backbone.levels[first_level : first_level + anchors.num_levels]]
        self.coder = coder
        self.matcher = matcher
        self.classification = classification
        self.box_loss = box_loss
        self.post_processing = post_processing
        # Names and order of the weights in bundles: whichever neck it is, they are called `fpn`.
        self.backbone = backbone
        self.fpn = neck
        self.classification_head = classification_head
        self.box_head = box_head
        self.mask_head = masks.head(backbone.levels) if masks else None

    def geometry(self) -> dict[str, Any]:
        """See `Detector`."""
        return {**super().geometry(), "finest_level": self.first_level}

    def losses(self, image: Tensor, targets: list[Targets]) -> dict[str, Tensor]:
        """Return `classification` and those of `box_loss`, weighted scalars, for images (B, C, D, H, W).

        With `masks` also `mask_cross_entropy` and `mask_dice`.
        """
        valid = self.valid_targets_on_host(targets)  # before the network, after which targets on a GPU would queue
        if self.mask_head is None:
            return self.pyramid_losses(self.pyramid(image), valid)
        features = self.backbone(image)
        return self.pyramid_losses(self.fpn(features), valid) | self.mask_head.losses(features, image, valid)

    @torch.no_grad()
    def detect(self, image: Tensor) -> list[Detections]:
        """Return detections of each image (B, C, D, H, W), clipped, suppressed within classes, best score first."""
        d, h, w = image.shape[2:]
        return self._detections(self.pyramid(image), (d, h, w))

    @torch.no_grad()
    def launch(self, image: Tensor) -> Callable[[], list[Detections]]:
        """See `Detector`: the network runs, decoding and suppression are put off."""
        d, h, w = image.shape[2:]
        return partial(self._decoded, *self._predicted(self.pyramid(image)), (d, h, w))

    def outputs(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the raw head outputs of (B, C, D, H, W), not decoded: logits (B, A, K) and values (B, A, V)."""
        pyramid = self.pyramid(image)
        return self.classification_head(pyramid), self.box_head(pyramid)

    def anchors_of(self, image: Tensor) -> Tensor:
        """Return the anchors (A, 6) that the outputs of an image of this size belong to."""
        return self.anchors(level_shapes(self.pyramid(image)), self.strides, image.device)

    def pyramid(self, image: Tensor) -> Sequence[Tensor]:
        """Return features (B, C, d, h, w) of the detection levels, finest first."""
        levels: Sequence[Tensor] = self.fpn(self.backbone(image))
        return levels

    def pyramid_losses(self, pyramid: Sequence[Tensor], targets: list[Targets]) -> dict[str, Tensor]:
        """Compute the losses of both heads.

        Args:
            pyramid: features of the detection levels.
            targets: valid ones, see `valid_targets`; without a wait where they are on the CPU.
        """
        logits, outputs = self.classification_head(pyramid), self.box_head(pyramid)  # (B, A, K), (B, A, V)
        num_invalid = self.num_invalid_predictions
        # Before the host waits for the predictions: a GPU has the network to compute.
        assignment = self.match(level_shapes(pyramid), targets)
        finite = self.finite_predictions(logits.flatten(0, 1), outputs.flatten(0, 1))  # (B * A,)
        if self.num_invalid_predictions > num_invalid:
            assignment = assignment.only(to_host([finite])[0])
        assigned = assignment.to(outputs.device)
        labels = assigned.class_of_anchors().masked_fill(~finite, IGNORED)
        classification = self.classification(logits.flatten(0, 1), labels, len(targets))
        classification = self.where_any_is_finite(classification, finite)
        positive_outputs = outputs.flatten(0, 1).index_select(0, assigned.positive).float()
        of_boxes = self.box_loss(positive_outputs, assigned.anchors, assigned.boxes, self.coder)
        return {"classification": classification} | of_boxes

    def match(self, shapes: Sequence[Shape], targets: list[Targets]) -> Assignment:
        """Match the objects of each image with the anchors of a pyramid of these level shapes.

        Args:
            shapes: (D, H, W) of each detection level.
            targets: valid ones, see `valid_targets`; without a wait where they are on the CPU.
        """
        anchors = self.anchors(shapes, self.strides, "cpu")
        per_level, per_cell = self.anchors.per_level(shapes), self.anchors.per_cell
        return assign(self.matcher, targets_to_host(targets), anchors, per_level, per_cell)

    def _detections(self, pyramid: Sequence[Tensor], image_shape: Shape) -> list[Detections]:
        return self._decoded(*self._predicted(pyramid), image_shape)

    def _predicted(self, pyramid: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (B, A, K), values (B, A, V), float32, and the anchors (A, 6)."""
        logits, outputs = self.classification_head(pyramid).float(), self.box_head(pyramid).float()
        return logits, outputs, self.anchors(level_shapes(pyramid), self.strides, outputs.device)

    @torch.no_grad()
    def _decoded(self, logits: Tensor, outputs: Tensor, anchors: Tensor, image_shape: Shape) -> list[Detections]:
        """Wait once for the device: for the candidates of all images, and for how many predictions are finite."""
        finite = finite_rows(logits.flatten(0, 1), outputs.flatten(0, 1)).view(logits.shape[:2])
        candidates = self.post_processing.candidates(logits, outputs, finite, anchors, self.coder, image_shape)
        boxes, scores, labels, num_finite = to_host([*candidates, finite.sum()])
        self.count_predictions(finite.numel(), finite.numel() - int(num_finite))
        return self.post_processing.suppress(boxes, scores, labels)


def level_shapes(pyramid: Sequence[Tensor]) -> list[Shape]:
    """Return (D, H, W) of each level (B, C, D, H, W)."""
    return [(level.shape[2], level.shape[3], level.shape[4]) for level in pyramid]
