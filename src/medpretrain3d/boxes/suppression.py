"""Non-maximum suppression: one box per object."""

from __future__ import annotations

import torch
from torch import Tensor

from medpretrain3d.boxes.convention import Detections, at_least_float32, box_volume
from medpretrain3d.boxes.overlap import box_iou
from medpretrain3d.errors import UserError


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that survive non-maximum suppression, best score first: (K,) int64.

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
    if iou_threshold < 0:
        raise UserError(f"iou_threshold {iou_threshold}: must be at least 0; 0.3 to 0.6 are usual")
    if boxes.device.type != "cpu":
        return blocked_nms(boxes, scores, iou_threshold)
    order = scores.argsort(descending=True, stable=True)
    boxes = at_least_float32(boxes.detach())[order]
    volume = box_volume(boxes)
    keep = torch.ones(len(boxes), dtype=torch.bool)
    solid = torch.nonzero((volume > 0) & boxes.isfinite().all(dim=1))[:, 0]
    if len(solid) > 1:
        from medpretrain3d.boxes.kernels import suppress

        threshold = boxes.new_tensor(iou_threshold).numpy()[()]
        keep[solid] = torch.from_numpy(suppress(boxes[solid].numpy(), volume[solid].numpy(), threshold))
    return order[keep]


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
    kept = []
    for label in detections.labels.unique():
        of_class = detections[torch.nonzero(detections.labels == label)[:, 0]]
        kept.append(of_class[nms(of_class.boxes, of_class.scores, iou_threshold)])
    return Detections.cat(kept) if kept else detections
