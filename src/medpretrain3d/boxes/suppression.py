"""Non-maximum suppression: one box per object."""

from __future__ import annotations

import torch
from torch import Tensor

from medpretrain3d.boxes.arithmetic import at_least_float32, box_volume
from medpretrain3d.boxes.convention import Detections
from medpretrain3d.boxes.overlap import box_iou
from medpretrain3d.errors import UserError


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Return indices of the boxes that survive non-maximum suppression, best score first: (K,) int64.

    A box is dropped when its IoU with a better box that was kept is above `iou_threshold`. Boxes without volume or
    with NaN overlap nothing and are kept. On the CPU a spatial grid finds the few pairs that can overlap; elsewhere
    `blocked_nms` does the same in blocks.

    Args:
        boxes: (N, 6).
        scores: (N,).
        iou_threshold: overlap above which the lower-scored box goes.

    Raises:
        UserError: a threshold below 0.
    """
    _check_threshold(iou_threshold)
    if boxes.device.type != "cpu":
        return blocked_nms(boxes, scores, iou_threshold)
    order = scores.argsort(descending=True, stable=True)
    winner = _winners(boxes[order], iou_threshold, finds_best=False)
    return order[winner == torch.arange(len(order))]


def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor]:
    """Suppress as `nms` does, and say for every box which one stands for it; on the CPU.

    Args:
        boxes: (N, 6).
        scores: (N,).
        iou_threshold: as in `nms`.

    Returns:
        Indices of the boxes kept (K,) int64, best score first; and for every box (N,) int64 the place among them of the
        best one whose IoU with it is above the threshold, its own place for a box that is kept.
    """
    order = scores.argsort(descending=True, stable=True)
    winner = _winners(boxes[order], iou_threshold, finds_best=True)
    is_kept = winner == torch.arange(len(order))
    place = torch.empty_like(order)
    place[order] = (is_kept.cumsum(0) - 1)[winner]
    return order[is_kept], place


def covered_by(
    boxes: Tensor, scores: Tensor, min_covered: float, min_score_ratio: float, num_covers: int | None = None
) -> Tensor:
    """Find boxes that mostly lie in an earlier one; on the CPU: (N,) int64, index of that box, or a box's own.

    Args:
        boxes: (N, 6), in the order in which they are believed.
        scores: (N,).
        min_covered: share of a box's volume that the other one holds at least.
        min_score_ratio: of the other one's score to the box's own, at least.
        num_covers: the first so many boxes stand by themselves and cover the rest; None if every box does that is not
            itself covered.
    """
    from medpretrain3d.boxes.kernels import cover

    boxes = at_least_float32(boxes.detach())
    every = -1 if num_covers is None else num_covers
    owner = cover(
        boxes.numpy(), box_volume(boxes).numpy(), scores.detach().numpy(), min_covered, min_score_ratio, every
    )
    return torch.from_numpy(owner)


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Return indices of the boxes that survive suppression within their group, by group and best score first: (K,).

    A group is a class, or a class of one of several images. Boxes are not moved apart, as is usual where all groups are
    suppressed as one: coordinates would lose digits.

    Args:
        boxes: (N, 6).
        scores: (N,).
        groups: (N,) int64.
        iou_threshold: as in `nms`.

    Raises:
        UserError: a threshold below 0.
    """
    _check_threshold(iou_threshold)
    order = scores.argsort(descending=True, stable=True)
    order = order[groups[order].argsort(stable=True)]
    if boxes.device.type != "cpu":
        counts = groups.unique(return_counts=True)[1].tolist()
        parts = [part[blocked_nms(boxes[part], scores[part], iou_threshold)] for part in order.split(counts)]
        return torch.cat(parts) if parts else order
    winner = _winners(boxes[order], iou_threshold, finds_best=False, groups=groups[order])
    return order[winner == torch.arange(len(order))]


def _check_threshold(iou_threshold: float) -> None:
    if iou_threshold < 0:
        raise UserError(f"iou_threshold {iou_threshold}: must be at least 0; 0.3 to 0.6 are usual")


def _winners(boxes: Tensor, iou_threshold: float, finds_best: bool, groups: Tensor | None = None) -> Tensor:
    """Run NMS on (N, 6) boxes, best first: (N,), index of the kept box that suppresses each, or its own if kept.

    Boxes of groups (N,), which follow each other, suppress none of another.
    """
    boxes = at_least_float32(boxes.detach())
    volume = box_volume(boxes)
    winner = torch.arange(len(boxes))
    solid = torch.nonzero((volume > 0) & boxes.isfinite().all(dim=1))[:, 0]
    if len(solid) > 1:
        from medpretrain3d.boxes.kernels import suppress as suppress_kernel

        threshold = boxes.new_tensor(iou_threshold).numpy()[()]
        counts = None if groups is None else groups[solid].unique_consecutive(return_counts=True)[1].tolist()
        for part in solid.split(counts or len(solid)):
            found = suppress_kernel(boxes[part].numpy(), volume[part].numpy(), threshold, finds_best)
            winner[part] = part[torch.from_numpy(found)]
    return winner


def blocked_nms(boxes: Tensor, scores: Tensor, iou_threshold: float, block: int = 512) -> Tensor:
    """`nms` on any device: a block is compared with itself, settled, and then suppresses everything behind it at once.

    Args:
        boxes: (N, 6).
        scores: (N,).
        iou_threshold: as in `nms`.
        block: boxes settled per step; bounds the memory at `block x N`.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes = at_least_float32(boxes)[order]
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
    kept = detections[batched_nms(detections.boxes, detections.scores, detections.labels, iou_threshold)]
    return kept[kept.scores.argsort(descending=True, stable=True)]
