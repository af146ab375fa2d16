"""The formulas of detection losses. Each is a function; weights and sampling live elsewhere."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from medpretrain3d.processes import mean_over_samples, total

FARTHEST = 1e12
"""Coordinate that a decoded box is cut at in losses: the volume of a hull from 7e12 on is no float32."""


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """Return focal loss, one value per logit (Lin et al., 2017, eq. 5). `targets` are 0 or 1."""
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_wrong = -torch.expm1(-ce)  # probability given to the wrong answer
    # At 0 the slope of a power below 1 is infinite, and times the slope 0 of `p_wrong` it is NaN.
    p_wrong = p_wrong.clamp(min=torch.finfo(ce.dtype).tiny)
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return weight * p_wrong**gamma * ce


def varifocal_loss(logits: Tensor, quality: Tensor, is_object: Tensor, alpha: float, gamma: float) -> Tensor:
    """Return varifocal loss, one value per logit: cross-entropy with the quality of a box (Zhang et al., 2021, eq. 2).

    Args:
        logits: of any shape.
        quality: of the same shape, what the score is to be in [0, 1], 0 where there is no object.
        is_object: of the same shape, 1 or 0. Objects weigh as much as their quality is.
        alpha: weight of background.
        gamma: how fast easy background fades.
    """
    ce = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return torch.where(is_object > 0, quality, alpha * logits.detach().sigmoid() ** gamma) * ce


def iou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """Return `1 - IoU` of box i with target i: (N, 6), (N, 6) -> (N,) in [0, 1]."""
    return 1 - _iou_union_hull(_cut(boxes), targets.float())[0]


def soft_focal_loss(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """Return focal loss for targets from 0 to 1, one value per logit: that of Lin et al. where they are 0 or 1.

    `[(1 - alpha) + y (2 alpha - 1)] |y - p|^gamma CE(y, p)` (Wang et al., 2020, FocalMix, with a0 = 1 - alpha and
    a1 = alpha).
    """
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    # y - p, as y (1 - p) - (1 - y) p: near 1 the difference itself has no digits left.
    distance = (targets * torch.sigmoid(-logits) - (1 - targets) * torch.sigmoid(logits)).abs()
    distance = distance.clamp(min=torch.finfo(ce.dtype).tiny)  # see `sigmoid_focal_loss`
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return weight * distance**gamma * ce


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """Return `1 - GIoU` of box i with target i: (N, 6), (N, 6) -> (N,) in [0, 2] (Rezatofighi et al., 2019, alg. 1)."""
    iou, union, hull = _iou_union_hull(_cut(boxes), targets.float())
    hull_volume = hull.prod(dim=1)
    return 1 - (iou - (hull_volume - union) / hull_volume)


def diou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """Return `1 - IoU + d^2 / c^2`: (N, 6), (N, 6) -> (N,) in [0, 2) (Zheng et al., 2020, eq. 7).

    `d` is the distance of the centres, `c` the diagonal of the hull.
    """
    boxes, targets = _cut(boxes), targets.float()
    iou, _, hull = _iou_union_hull(boxes, targets)
    offset = (boxes[:, :3] + boxes[:, 3:] - targets[:, :3] - targets[:, 3:]) / 2
    return 1 - iou + offset.square().sum(dim=1) / hull.square().sum(dim=1)


def _cut(boxes: Tensor) -> Tensor:
    return boxes.float().clamp(-FARTHEST, FARTHEST)


def _iou_union_hull(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """IoU (N,), volume of the union (N,) and extents of the hull (N, 3); targets have a volume, boxes may have none."""
    low, high = boxes.split(3, dim=1)
    target_low, target_high = targets.split(3, dim=1)
    volume = (high - low).clamp(min=0).prod(dim=1)
    target_volume = (target_high - target_low).prod(dim=1)
    intersection = (torch.minimum(high, target_high) - torch.maximum(low, target_low)).clamp(min=0).prod(dim=1)
    union = volume + target_volume - intersection
    return intersection / union, union, torch.maximum(high, target_high) - torch.minimum(low, target_low)


def l1_loss(deltas: Tensor, targets: Tensor) -> Tensor:
    """Return sum over the six deltas of `|x - y|`: (N, 6), (N, 6) -> (N,) float32."""
    return (deltas.float() - targets.float()).abs().sum(dim=1)


def smooth_l1_loss(deltas: Tensor, targets: Tensor, beta: float = 1.0) -> Tensor:
    """Sum over the six deltas of the Huber-like loss (Girshick, 2015, eq. 3, with the knee at `beta`): (N,) float32."""
    return F.smooth_l1_loss(deltas.float(), targets.float(), reduction="none", beta=beta).sum(dim=1)


def soft_dice_loss(probabilities: Tensor, labels: Tensor, smooth: float = 1e-5) -> Tensor:
    """Return `1 - Dice`, mean over the foreground classes, each pooled over the batch (Milletari et al., 2016, eq. 1).

    The batch is that of all processes.

    Args:
        probabilities: (B, K + 1, D, H, W) float32, class 0 is background.
        labels: (B, D, H, W) int64 in `0 .. K`.
        smooth: added above and below the fraction: a class that is neither present nor predicted has Dice 1.
    """
    sums = []
    for label in range(1, probabilities.shape[1]):
        truth = (labels == label).to(probabilities.dtype)
        predicted = probabilities[:, label]
        sums.append(torch.stack([(predicted * truth).sum(), predicted.sum(), truth.sum()]))
    overlap, predicted, true = total(torch.stack(sums, dim=1))  # (K,) each
    result: Tensor = 1 - ((2 * overlap + smooth) / (predicted + true + smooth)).mean()
    return result


def hardest_bce(logits: Tensor, targets: Tensor, counts: Tensor, share: float) -> Tensor:
    """Return the mean binary cross-entropy over the hardest share of each image's cells: a scalar, float32.

    The mean is over the cells that count of all processes' images; at a share of 1 it is plain cross-entropy.

    Args:
        logits: (B, N).
        targets: (B, N) in [0, 1].
        counts: (B, N) bool; other cells are left out.
        share: of N, above 0.
    """
    logits = torch.where(counts, logits.float(), 0)  # what is not finite does not count
    loss = F.binary_cross_entropy_with_logits(logits, targets.float(), reduction="none")
    if share < 1:
        ranked = torch.where(counts, loss.detach(), -1)
        hardest = ranked.topk(max(1, math.ceil(share * ranked.shape[1])), dim=1, sorted=False).indices
        loss, counts = loss.gather(1, hardest), counts.gather(1, hardest)
    return mean_over_samples(torch.where(counts, loss, 0).sum(), counts.sum())
