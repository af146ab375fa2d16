"""The box convention of the whole project, and the arithmetic on boxes.

A box is `(d0, h0, w0, d1, h1, w1)`: min corner then max corner along tensor axes (D, H, W), in voxels, half-open. Voxel
`i` fills the interval `[i, i + 1)`, so a cube of three voxels has volume 27 and a box has no "+1" anywhere. World boxes
carry their frame in the name (`boxes_lps_mm`) and are `(x0, y0, z0, x1, y1, z1)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Targets:
    """What is to be found in one image: boxes (N, 6) float32, labels (N,) int64 from 0, and optionally a label map.

    `mask` is (D, H, W) int64 with 0 for background and `label + 1` inside objects; None where no masks exist. `ignore`
    is (M, 6) float32: regions in which finding something is neither right nor wrong; None is the same as no region.
    """

    boxes: Tensor
    labels: Tensor
    mask: Tensor | None = None
    ignore: Tensor | None = None

    def to(self, device: torch.device | str) -> Targets:
        """The same targets on another device."""
        mask = None if self.mask is None else self.mask.to(device)
        ignore = None if self.ignore is None else self.ignore.to(device)
        return Targets(self.boxes.to(device), self.labels.to(device), mask, ignore)


@dataclass
class Detections:
    """What was found in one image: boxes (N, 6) float32, scores (N,) in [0, 1] falling, labels (N,) int64 from 0."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Tensor | slice) -> Detections:
        return Detections(self.boxes[index], self.scores[index], self.labels[index])

    def to(self, device: torch.device | str) -> Detections:
        """The same detections on another device."""
        return Detections(self.boxes.to(device), self.scores.to(device), self.labels.to(device))

    @staticmethod
    def cat(parts: Sequence[Detections]) -> Detections:
        """All detections of several parts, best score first."""
        joined = Detections(
            torch.cat([part.boxes for part in parts]) if parts else torch.zeros(0, 6),
            torch.cat([part.scores for part in parts]) if parts else torch.zeros(0),
            torch.cat([part.labels for part in parts]) if parts else torch.zeros(0, dtype=torch.long),
        )
        return joined[joined.scores.argsort(descending=True, stable=True)]


def box_volume(boxes: Tensor) -> Tensor:
    """Volume of each box (N,); 0 where a corner pair is swapped. float32, or float64 for float64 boxes."""
    boxes = _at_least_float32(boxes)
    return (boxes[:, 3:] - boxes[:, :3]).clamp(min=0).prod(dim=1)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every box of `a` (N, 6) with every box of `b` (M, 6): (N, M).

    float32, or float64 where both are: world boxes lie far from their origin, and at 1500 mm the last digit of float32
    is 1e-4 mm.
    """
    intersection, union = _intersection_and_union(_at_least_float32(a), _at_least_float32(b))
    return torch.where(union > 0, intersection / union.clamp(min=torch.finfo(union.dtype).tiny), union.new_zeros(()))


def generalized_box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalized IoU in [-1, 1] of every pair: (N, M), precision as in `box_iou` (Rezatofighi et al., 2019)."""
    a, b = _at_least_float32(a), _at_least_float32(b)
    intersection, union = _intersection_and_union(a, b)
    hull = a.new_ones(len(a), len(b))
    for axis in range(3):
        hull *= torch.maximum(a[:, None, axis + 3], b[None, :, axis + 3]) - torch.minimum(
            a[:, None, axis], b[None, :, axis]
        )
    tiny = torch.finfo(union.dtype).tiny
    return intersection / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def _at_least_float32(boxes: Tensor) -> Tensor:
    # Boxes stay fp32 under autocast: bf16 has 8 significant bits, so 160.5 becomes 160 and 301 becomes 300.
    return boxes if boxes.dtype == torch.float64 else boxes.float()


def _intersection_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    # One axis at a time: the (N, M, 3) temporaries of the one-line version are what costs on large inputs.
    intersection = a.new_ones(len(a), len(b))
    for axis in range(3):
        low = torch.maximum(a[:, None, axis], b[None, :, axis])
        high = torch.minimum(a[:, None, axis + 3], b[None, :, axis + 3])
        intersection *= (high - low).clamp_(min=0)
    union = box_volume(a)[:, None] + box_volume(b)[None, :] - intersection
    return intersection, union


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, block: int = 512) -> Tensor:
    """Indices of the boxes that survive non-maximum suppression, best score first: (K,) int64.

    A box is dropped when its IoU with a better box that was kept is above `iou_threshold`. Works in blocks: a block is
    compared with itself, settled, and then suppresses everything behind it at once.

    Args:
        boxes: (N, 6).
        scores: (N,).
        iou_threshold: overlap above which the lower-scored box goes.
        block: boxes settled per step; bounds the memory at `block x N`.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes.float()[order]
    alive = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    for start in range(0, len(boxes), block):
        index = torch.arange(start, min(start + block, len(boxes)), device=boxes.device)
        index = index[alive[index]]
        overlaps = (box_iou(boxes[index], boxes[index]) > iou_threshold).cpu().triu_(1)
        keep = torch.ones(len(index), dtype=torch.bool)
        for i in range(len(index)):
            if keep[i]:
                keep &= ~overlaps[i]
        keep = keep.to(boxes.device)
        alive[index[~keep]] = False
        behind = torch.arange(min(start + block, len(boxes)), len(boxes), device=boxes.device)
        behind = behind[alive[behind]]
        if len(behind) and keep.any():
            suppressed = (box_iou(boxes[behind], boxes[index[keep]]) > iou_threshold).any(dim=1)
            alive[behind[suppressed]] = False
    return order[alive]


def classwise_nms(detections: Detections, iou_threshold: float) -> Detections:
    """Non-maximum suppression within each class; the result is sorted by score."""
    kept = []
    for label in detections.labels.unique():
        of_class = detections[torch.nonzero(detections.labels == label)[:, 0]]
        kept.append(of_class[nms(of_class.boxes, of_class.scores, iou_threshold)])
    return Detections.cat(kept) if kept else detections


def clip_boxes(boxes: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Boxes (N, 6) cut to the volume `(0, 0, 0)` .. `shape`."""
    limit = boxes.new_tensor([*shape, *shape])
    return torch.minimum(boxes.clamp(min=0), limit)
