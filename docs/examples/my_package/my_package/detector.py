"""A detector of one's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medpretrain3d.backbones import Backbone
from medpretrain3d.boxes import Detections, Targets, clip_boxes, nms
from medpretrain3d.detection import Detector
from medpretrain3d.detection.losses import sigmoid_focal_loss
from medpretrain3d.processes import mean_over_samples
from medpretrain3d.values import Count


class CenterNet(Detector):
    """Every cell of the finest level says whether the center of an object is in it, and how large that is.

    Args:
        backbone: the encoder.
        num_classes: foreground classes.
        detections_per_image: of which the best are kept.
    """

    def __init__(self, backbone: Backbone, num_classes: Count, detections_per_image: Count = 100) -> None:
        super().__init__()
        self.backbone, self.num_classes, self.detections_per_image = backbone, num_classes, detections_per_image
        self.head = nn.Conv3d(backbone.levels[0].channels, num_classes + 3, 1)
        nn.init.constant_(self.head.bias[:num_classes], -4.0)  # an object is rare: probability 0.02 to begin with
        # Levels that no head reads would get no gradient.
        self.mix = nn.Conv3d(backbone.levels[-1].channels, backbone.levels[0].channels, 1)

    def losses(self, image: Tensor, targets: list[Targets]) -> dict[str, Tensor]:
        """Focal loss of the centers, L1 loss of the logarithms of the sizes."""
        logits, sizes, centers = self._predict(image)
        finite = self.finite_predictions(logits.flatten(0, 1), sizes.flatten(0, 1)).view(logits.shape[:2])
        wanted, is_center, log_sizes = torch.zeros_like(logits), torch.zeros_like(finite), torch.zeros_like(sizes)
        counts = finite.clone()
        for row, target in enumerate(self.valid_targets(targets)):
            for box in target.ignore if target.ignore is not None else ():
                counts[row] &= ~((centers >= box[:3]) & (centers < box[3:])).all(dim=1)
            for box, label in zip(target.boxes, target.labels, strict=True):
                cell = (centers - (box[:3] + box[3:]) / 2).square().sum(dim=1).argmin()
                wanted[row, cell, label], is_center[row, cell] = 1, True
                counts[row, cell] = finite[row, cell]
                log_sizes[row, cell] = (box[3:] - box[:3]).log()
        is_center &= finite
        focal = sigmoid_focal_loss(logits[counts], wanted[counts], alpha=0.25, gamma=2.0)
        apart = (sizes - log_sizes).abs()[is_center]
        # Zero times everything: a step without an object gives every parameter a gradient, too.
        nothing = 0 * (logits[finite].sum() + sizes[finite].sum())
        losses = {"classification": focal.sum(), "size": apart.sum()}
        num_objects = is_center.sum()
        return {
            name: self.where_any_is_finite(mean_over_samples(loss + nothing, num_objects), finite)
            for name, loss in losses.items()
        }

    @torch.no_grad()
    def detect(self, image: Tensor) -> list[Detections]:
        """Boxes of each image, best score first."""
        logits, sizes, centers = self._predict(image)
        shape = (image.shape[2], image.shape[3], image.shape[4])
        found = []
        for scores, log_sizes in zip(logits.sigmoid(), sizes, strict=True):
            finite = self.finite_predictions(scores, log_sizes)
            score, label = scores[finite].max(dim=1)
            half = log_sizes[finite].clamp(0, 5).exp() / 2
            boxes = clip_boxes(torch.cat([centers[finite] - half, centers[finite] + half], dim=1), shape)
            best = nms(boxes, score, 0.1)[: self.detections_per_image]
            found.append(Detections(boxes[best], score[best], label[best]))
        return found

    def _predict(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, N, K), logarithms of sizes in voxels (B, N, 3), and centers of the cells (N, 3) in voxels."""
        features = self.backbone(image)
        coarse = nn.functional.interpolate(self.mix(features[-1]), features[0].shape[2:])
        output = self.head(features[0] + coarse).float().flatten(2).transpose(1, 2)
        cells = [torch.arange(size, device=image.device) for size in features[0].shape[2:]]
        index = torch.stack(torch.meshgrid(*cells, indexing="ij"), dim=-1).reshape(-1, 3)
        stride = index.new_tensor(self.backbone.levels[0].stride)
        return output[..., : self.num_classes], output[..., self.num_classes :], (index + 0.5) * stride
