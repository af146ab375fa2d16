"""Weighted box clustering: detections of one object from several tiles and views become their weighted mean."""

from __future__ import annotations

import torch
from torch import Tensor

from medpretrain3d.boxes import box_iou, nms


def weighted_box_clustering(
    boxes: Tensor, scores: Tensor, weights: Tensor, num_expected: Tensor, iou_threshold: float
) -> tuple[Tensor, Tensor]:
    """Merge boxes of one class that speak of the same object (Jaeger et al., Retina U-Net, 2020, section 3).

    The best-scored box seeds a cluster and takes every box left whose IoU with it is above the threshold; then the next
    best does. Within a cluster the member `i` counts `w_i = iou_i * weight_i` (its overlap with the seed times its own
    weight), and

        score = sum(w_i * s_i) / (sum(w_i) + num_missing * mean(w_i))
        box   = sum(w_i * s_i * box_i) / sum(w_i * s_i)

    where `num_missing` is how many predictions fewer than expected the cluster has: an object that only one of eight
    views saw gets a low score. The area factor of the paper is left out, as in nnDetection, whose numbers this gives.

    Args:
        boxes: (N, 6).
        scores: (N,) in [0, 1].
        weights: (N,) positive; how far from its tile's border a box was seen.
        num_expected: (N,) how many tiles and views could have seen the place of each box; a cluster expects the mean.
        iou_threshold: overlap with the seed above which a box joins its cluster.

    Returns:
        Boxes (M, 6) and scores (M,) float32, clusters in the order of their seeds' scores.
    """
    if not len(boxes):
        return boxes.new_zeros(0, 6).float(), scores.new_zeros(0).float()
    # The seeds are what suppression keeps: both walk down the scores and settle all that overlaps the best box left.
    seeds = nms(boxes, scores, iou_threshold)  # (M,)
    cluster, iou = _assign(boxes, seeds, iou_threshold)  # (N,), (N,)

    def per_cluster(values: Tensor) -> Tensor:
        """Sum of (N, ...) over the members of each cluster: (M, ...)."""
        return values.new_zeros(len(seeds), *values.shape[1:]).index_add_(0, cluster, values)

    weight = iou.double() * weights.double()
    evidence = weight * scores.double()
    num_found = per_cluster(torch.ones_like(weight))
    num_missing = (per_cluster(num_expected.double()) / num_found - num_found).clamp(min=0)
    total = per_cluster(weight)
    score = per_cluster(evidence) / (total + num_missing * total / num_found)
    # A cluster of zero scores has no weighted mean; its seed stands for it.
    strength = per_cluster(evidence)[:, None]
    mean_box = per_cluster(evidence[:, None] * boxes.double()) / strength.clamp(min=torch.finfo(torch.double).tiny)
    return torch.where(strength > 0, mean_box, boxes[seeds].double()).float(), score.float()


def _assign(boxes: Tensor, seeds: Tensor, iou_threshold: float, block: int = 1024) -> tuple[Tensor, Tensor]:
    """Per box, the position in `seeds` of the best-scored seed that takes it, and the IoU with that seed."""
    clusters, ious = [], []
    for part in boxes.split(block):  # bounds the memory at block x M
        overlap = box_iou(part, boxes[seeds])
        first = (overlap > iou_threshold).int().argmax(dim=1)  # argmax gives the first of equals
        clusters.append(first)
        ious.append(overlap.gather(1, first[:, None])[:, 0])
    cluster, iou = torch.cat(clusters), torch.cat(ious)
    cluster[seeds] = torch.arange(len(seeds), device=seeds.device)
    iou[seeds] = 1.0  # also for a box without volume, whose IoU with itself is 0
    return cluster, iou
