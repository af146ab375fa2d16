"""Retina U-Net: RetinaNet that also learns from masks, at full resolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medpretrain3d.backbones.base import Backbone
from medpretrain3d.boxes import Targets
from medpretrain3d.detection.anchors import AnchorGrid
from medpretrain3d.detection.base import Part
from medpretrain3d.detection.fpn import FPN
from medpretrain3d.detection.losses import soft_dice_loss
from medpretrain3d.detection.mask_branch import mask_logits
from medpretrain3d.detection.retinanet import RetinaNet
from medpretrain3d.errors import UserError
from medpretrain3d.processes import mean_over_samples
from medpretrain3d.values import Channels

CROSS_ENTROPY_WEIGHT = 0.5
DICE_WEIGHT = 0.5


class RetinaUNet(RetinaNet):
    """RetinaNet with a segmentation branch (Jaeger et al., 2020), as nnDetection trains it.

    The pyramid goes on to full resolution, halving its width per level below `first_level` (128, 64, 32), and a 1x1x1
    convolution classifies every voxel. Images without a mask take part in the box losses only; `detect` leaves out what
    only segments.

    Args:
        backbone: any backbone whose finest level has the resolution of the image.
        num_classes: as in `RetinaNet`.
        anchors: as in `RetinaNet`.
        segmentation: `classes` tells them apart voxel by voxel, `foreground` only objects from background, as
            nnDetection does.
        options: all others of `RetinaNet` but `masks`.

    Raises:
        UserError: the backbone's finest level does not have the resolution of the image, or `masks` are given.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.boxes import Targets
        >>> from medpretrain3d.detection import AnchorGrid, RetinaUNet
        >>> anchors = AnchorGrid([[(4, 4, 4)], [(8, 8, 8)]])
        >>> detector = RetinaUNet(ResEnc("XXS"), num_classes=1, anchors=anchors, fpn_channels=16)
        >>> image = torch.rand(1, 1, 16, 16, 16)
        >>> targets = Targets(boxes=torch.tensor([[2.0, 2, 2, 8, 8, 8]]), labels=torch.tensor([0]))
        >>> losses = detector.losses(image, [targets])
        >>> sorted(losses)
        ['boxes', 'classification', 'cross_entropy', 'dice']
        >>> with torch.no_grad():
        ...     detections = detector.eval().detect(image)
        >>> len(detections), detections[0].boxes.shape[1]
        (1, 6)
    """

    parts: ClassVar[Mapping[str, Part]] = {**RetinaNet.parts, "segmenter.": "labels"}

    def __init__(
        self,
        backbone: Backbone,
        num_classes: Channels,
        anchors: AnchorGrid,
        segmentation: Literal["classes", "foreground"] = "classes",
        **options: Any,
    ) -> None:
        if options.get("masks") is not None:
            raise UserError("RetinaUNet segments as it is: leave `masks` out, or use RetinaNet")
        super().__init__(backbone, num_classes, anchors, **options)
        self.segmentation = segmentation
        num_outputs = num_classes + 1 if segmentation == "classes" else 2
        self.segmenter = nn.Conv3d(self.fpn.channels[0], num_outputs, 1)

    @staticmethod
    def _neck(backbone: Backbone, first_level: int, num_levels: int, channels: int) -> FPN:
        levels = backbone.levels
        if levels[0].stride != (1, 1, 1):
            raise UserError(
                f"RetinaUNet segments at full resolution, but the finest level of {type(backbone).__name__} has "
                f"stride {levels[0].stride}; use RetinaNet"
            )
        finer = [max(1, channels // 2 ** (first_level - index)) for index in range(first_level)]
        widths = finer + [channels] * (len(levels) - len(finer))
        return FPN(levels, widths, outputs=sorted({0, *range(first_level, first_level + num_levels)}))

    def geometry(self) -> dict[str, Any]:
        """See `Detector`: the pyramid goes on to the finest level."""
        return {**super().geometry(), "finest_level": 0, "first_level": self.first_level}

    def compiled_parts(self) -> dict[str, nn.Module]:
        """Return backbone and heads.

        The pyramid is left out: boxes and masks each take some of its levels and share the others, and masks are made
        of its finest one along with the segmenter, so that neither is called as one module.
        """
        parts = super().compiled_parts()
        del parts["fpn"], parts["segmenter"]
        return parts

    def losses(self, image: Tensor, targets: list[Targets]) -> dict[str, Tensor]:
        """`classification`, `boxes`, `cross_entropy` and `dice`, weighted scalars, for images (B, C, D, H, W)."""
        valid = self.valid_targets_on_host(targets)
        logits, pyramid = self.branches(image)
        return self.pyramid_losses(pyramid, valid) | self._mask_losses(logits, targets)

    @torch.no_grad()
    def segment(self, image: Tensor) -> Tensor:
        """Probability of background and of each class (or of any object) at every voxel: (B, 1 + ..., D, H, W) fp32."""
        features = self.backbone(image)
        return mask_logits(features[0], self.fpn.merge(features, 1)[1], self.fpn, self.segmenter).float().softmax(dim=1)

    def branches(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return voxel-wise segmentation logits and the pyramid's detection levels of (B, C, D, H, W), for training."""
        features = self.backbone(image)
        merged = self.fpn.merge(features, min(1, self.first_level))
        logits = mask_logits(features[0], merged[1], self.fpn, self.segmenter)
        return logits, self.fpn.refine(merged, self._detection_levels)

    def pyramid(self, image: Tensor) -> Sequence[Tensor]:
        """Return features (B, C, d, h, w) of the detection levels, finest first; what only segments is left out."""
        return self.fpn.refine(self.fpn.merge(self.backbone(image), self.first_level), self._detection_levels)

    @property
    def _detection_levels(self) -> range:
        return range(self.first_level, self.first_level + self.anchors.num_levels)

    def _mask_losses(self, logits: Tensor, targets: list[Targets]) -> dict[str, Tensor]:
        masked = [index for index, target in enumerate(targets) if target.mask is not None]
        masks = [target.mask.long() for target in targets if target.mask is not None]
        for mask in masks:
            if mask.shape != logits.shape[2:]:
                raise UserError(
                    f"mask of shape {tuple(mask.shape)} for an image of shape {tuple(logits.shape[2:])}; "
                    "both must be the same crop"
                )
        # With no mask in the batch both losses are sums over nothing: 0, with gradients of 0 for the whole branch.
        if len(masked) < len(targets):
            logits = logits.index_select(0, torch.tensor(masked, dtype=torch.long).to(logits.device, non_blocking=True))
        logits = logits.float()
        labels = (
            torch.stack(masks).to(logits.device, non_blocking=True)
            if masks
            else logits.new_zeros((0, *logits.shape[2:]), dtype=torch.long)
        )
        if self.segmentation == "foreground":
            labels = labels.clamp(max=1)
        cross_entropy = mean_over_samples(F.cross_entropy(logits, labels, reduction="sum"), labels.numel())
        return {
            "cross_entropy": CROSS_ENTROPY_WEIGHT * cross_entropy,
            "dice": DICE_WEIGHT * soft_dice_loss(logits.softmax(dim=1), labels),
        }
