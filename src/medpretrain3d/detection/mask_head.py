"""A mask of each object from the features in its box, for detectors that know boxes alone (Mask R-CNN, 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medpretrain3d.backbones.base import Level
from medpretrain3d.boxes import Targets, box_size, clip_boxes
from medpretrain3d.configurable import Configurable
from medpretrain3d.detection.fpn import FPN
from medpretrain3d.detection.heads import tower
from medpretrain3d.detection.roi_align import grid_points, roi_align
from medpretrain3d.errors import UserError
from medpretrain3d.processes import mean_over_samples
from medpretrain3d.randomness import draw_bits, to_uniform
from medpretrain3d.values import Channels, Layers, LayersOrNone, NonNegative, Rows, ShareBelowOne


class InstanceMasks(Configurable):
    """Masks from a head on the pooled box (He et al., Mask R-CNN, 2017), the same for anchors, cells and queries.

    The head asks for a box and nothing else. An embedding of the anchor or the query that found it (CondInst,
    MaskFormer) would have to come along through tiles, mirrored views and ensembles, and a box that is the weighted
    mean of many has none. Masks are made of the merged boxes, in whatever way they were merged.

    It learns from the boxes of the objects, each side moved at random, not from boxes that are still being learnt. In
    a box all voxels of the object's class are the object, as the label map of a crop says no more: of two that touch,
    each learns the part of the other in its own box. An object without a voxel in the label map is left out.

    Args:
        level: index into `backbone.levels` of the finest map that the head has a pyramid down to.
        channels: width of pyramid and head.
        size: cells that a box is pooled to along each axis; masks have twice as many.
        convs: convolutions in the head, before it is upsampled.
        weight: factor of both losses.
        jitter: most that a side of a box is moved in training, as a share of the box's extent, below 0.5.
        most_objects: of an image that are learnt, in the order of the targets.

    Raises:
        UserError: a jitter that could turn a box inside out.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.boxes import Targets
        >>> from medpretrain3d.detection import FCOS, InstanceMasks
        >>> detector = FCOS(ResEnc("XXS"), 1, fpn_channels=16, masks=InstanceMasks(channels=16, size=4))
        >>> label_map = torch.zeros(16, 16, 16, dtype=torch.uint8)
        >>> label_map[2:8, 2:8, 2:8] = 1
        >>> target = Targets(torch.tensor([[2.0, 2, 2, 8, 8, 8]]), torch.tensor([0]), label_map)
        >>> sorted(detector.losses(torch.rand(1, 1, 16, 16, 16), [target]))
        ['boxes', 'centerness', 'classification', 'mask_cross_entropy', 'mask_dice']
    """

    def __init__(
        self,
        level: LayersOrNone = 1,
        channels: Channels = 64,
        size: Layers = 14,
        convs: LayersOrNone = 4,
        weight: NonNegative = 1.0,
        jitter: ShareBelowOne = 0.1,
        most_objects: Rows = 32,
    ) -> None:
        if jitter >= 0.5:
            raise UserError(f"jitter {jitter}: must be below 0.5, so that a box keeps an extent; 0.1 is usual")
        self.level, self.channels, self.size, self.convs = level, channels, size, convs
        self.weight, self.jitter, self.most_objects = weight, jitter, most_objects

    def head(self, levels: Sequence[Level]) -> MaskHead:
        """Return the head for a backbone of these levels.

        Raises:
            UserError: it has no such level.
        """
        if self.level >= len(levels):
            raise UserError(
                f"masks on level {self.level}, but the backbone has {len(levels)} levels; give a smaller level"
            )
        return MaskHead(self, levels)


class MaskHead(nn.Module):
    """A pyramid from the backbone's coarsest level to one, and convolutions over what a box pools of it.

    Args:
        options: sizes and weights.
        levels: of the backbone, finest first.
    """

    def __init__(self, options: InstanceMasks, levels: Sequence[Level]) -> None:
        super().__init__()
        self.options = options
        self.stride = levels[options.level].stride
        width = options.channels
        self.fpn = FPN.down_to(levels, options.level, 1, width)
        self.tower = tower(width, options.convs)
        self.upsample = nn.ConvTranspose3d(width, width, 2, stride=2)
        self.output = nn.Conv3d(width, 1, 1)

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Return logits (N, S, S, S) float32 of the boxes of all images, `S` cells along each edge of a box.

        Args:
            features: of the backbone, (B, C, d, h, w) each, finest first.
            boxes: of each image (n, 6) in voxels, on the device of the features.
        """
        (level,) = self.fpn(features)
        pooled = roi_align(level, boxes, self.stride, self.options.size).to(level.dtype)
        logits: Tensor = self.output(F.relu(self.upsample(self.tower(pooled))))[:, 0]
        return logits.float()

    def losses(self, features: Sequence[Tensor], image: Tensor, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Return `mask_cross_entropy` and `mask_dice`, weighted means over the objects with a mask, of all processes.

        Args:
            features: of the backbone.
            image: (B, C, D, H, W) that they are of.
            targets: valid ones, on the CPU but for masks.

        Raises:
            UserError: a label map of another shape than the image.
        """
        d, h, w = image.shape[2:]
        for one in targets:
            if one.mask is not None and one.mask.shape != (d, h, w):
                raise UserError(
                    f"mask of shape {tuple(one.mask.shape)} for an image of shape {(d, h, w)}; both must be of one crop"
                )
        counted = [min(len(one.boxes), self.options.most_objects) if one.mask is not None else 0 for one in targets]
        boxes = [
            one.boxes[:count].to(image.device, non_blocking=True) for one, count in zip(targets, counted, strict=True)
        ]
        moved = [
            clip_boxes(box + change[: len(box)] * box_size(box).repeat(1, 2), (d, h, w))
            for box, change in zip(boxes, self._changes(len(targets), image.device), strict=True)
        ]
        num_objects = sum(counted)
        if not num_objects:  # every parameter takes part in every step
            moved[0] = torch.tensor([[0.0, 0, 0, d, h, w]]).to(image.device, non_blocking=True)
        logits = self(features, moved)
        if not num_objects:
            nothing = 0 * torch.where(logits.isfinite(), logits, 0).sum()
            return {name: mean_over_samples(nothing, 0) for name in ("mask_cross_entropy", "mask_dice")}
        truth = torch.cat(
            [
                self._truth(one.mask, one.labels[: len(box)].to(image.device, non_blocking=True), box, place)
                for one, box, place in zip(targets, boxes, moved, strict=True)
                if one.mask is not None
            ]
        )  # (N, S, S, S)
        counts = truth.flatten(1).any(dim=1) & logits.flatten(1).isfinite().all(dim=1)
        logits, truth = torch.where(counts[:, None, None, None], logits, 0).flatten(1), truth.flatten(1).float()
        cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=1)
        likely = logits.sigmoid()
        dice = 1 - (2 * (likely * truth).sum(dim=1) + 1) / (likely.sum(dim=1) + truth.sum(dim=1) + 1)
        weight = self.options.weight
        return {
            "mask_cross_entropy": weight * mean_over_samples(torch.where(counts, cross_entropy, 0).sum(), counts.sum()),
            "mask_dice": weight * mean_over_samples(torch.where(counts, dice, 0).sum(), counts.sum()),
        }

    @torch.no_grad()
    def probabilities(self, features: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Return how likely each part of a box is the object: (N, S, S, S) float32, for boxes (N, 6) of one image."""
        logits: Tensor = self(features, [boxes])
        return logits.sigmoid()

    def _changes(self, num_images: int, device: torch.device) -> Tensor:
        """Return by how much the sides of each box are moved, in its extents: (B, most objects, 6)."""
        most = self.options.most_objects
        drawn = to_uniform(draw_bits(num_images, most * 6, device)).view(num_images, most, 6)
        return self.options.jitter * (2 * drawn - 1)

    def _truth(self, label_map: Tensor, labels: Tensor, boxes: Tensor, places: Tensor) -> Tensor:
        """Return which parts of `places` (n, 6) hold the objects of `boxes` (n, 6): (n, S, S, S) bool."""
        points = grid_points(places, 2 * self.options.size)  # (n, 3, S)
        d, h, w = points.long().unbind(dim=1)
        d, h, w = (axis.clamp(max=edge - 1) for axis, edge in zip((d, h, w), label_map.shape, strict=True))
        label_map = label_map.to(boxes.device, non_blocking=True)
        found = label_map[d[:, :, None, None], h[:, None, :, None], w[:, None, None]]  # (n, S, S, S)
        is_inside = (points >= boxes[:, :3, None]) & (points < boxes[:, 3:, None])
        in_d, in_h, in_w = is_inside.unbind(dim=1)
        is_class = found == labels[:, None, None, None] + 1
        return is_class & in_d[:, :, None, None] & in_h[:, None, :, None] & in_w[:, None, None]
