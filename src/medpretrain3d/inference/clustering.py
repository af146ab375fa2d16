"""Weighted box clustering: detections of one object from several tiles and views become their weighted mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medpretrain3d.boxes import paired_iou, suppress


@dataclass(frozen=True)
class Clusters:
    """Detections of one class, merged."""

    boxes: Tensor
    """(M, 6) float32."""
    scores: Tensor
    """(M,) float32."""
    owner: Tensor
    """(N,) int64, the cluster of each detection."""


def cluster_boxes(boxes: Tensor, scores: Tensor, weights: Tensor, iou_threshold: float) -> Clusters:
    """Merge boxes of one class that speak of one object into their weighted mean, in the order of the seeds' scores.

    The best-scored box seeds a cluster and takes every box left whose IoU with it is above the threshold; then the next
    best does. A member `i` counts `w_i = iou_i * weight_i`, its overlap with the seed times its own weight:

        score = sum(w_i * s_i) / sum(w_i)
        box   = sum(w_i * s_i * box_i) / sum(w_i * s_i)

    Args:
        boxes: (N, 6).
        scores: (N,) in [0, 1].
        weights: (N,) positive; how far from its tile's border a box was seen.
        iou_threshold: overlap with the seed above which a box joins its cluster.
    """
    # The seeds are what suppression keeps: both walk down the scores and settle all that overlaps the best box left.
    seeds, owner = suppress(boxes, scores, iou_threshold)  # (M,), (N,)
    iou = paired_iou(boxes, boxes[seeds[owner]])
    iou[seeds] = 1.0  # also for a box without volume, whose IoU with itself is 0
    weight = iou.double() * weights.double()
    evidence = weight * scores.double()
    strength = per_cluster(evidence, owner, len(seeds))
    score = strength / per_cluster(weight, owner, len(seeds))
    mean_box = per_cluster(evidence[:, None] * boxes.double(), owner, len(seeds))
    mean_box = mean_box / strength[:, None].clamp(min=torch.finfo(torch.double).tiny)
    # A cluster of zero scores has no weighted mean; its seed stands for it.
    merged = torch.where(strength[:, None] > 0, mean_box, boxes[seeds].double())
    return Clusters(merged.float(), score.float(), owner)


def per_cluster(values: Tensor, owner: Tensor, num_clusters: int) -> Tensor:
    """Return sum of (N, ...) over the members of each cluster: (M, ...)."""
    return values.new_zeros(num_clusters, *values.shape[1:]).index_add_(0, owner, values)


def weighted_box_clustering(
    boxes: Tensor, scores: Tensor, weights: Tensor, num_expected: Tensor, iou_threshold: float
) -> tuple[Tensor, Tensor]:
    """Cluster boxes and lower the score of clusters with missing predictions (Jaeger et al., Retina U-Net, 2020, 3).

    With clusters as in `cluster_boxes` and `n` members of which `num_missing` fewer than expected were found,

        score = sum(w_i * s_i) / (sum(w_i) + num_missing * mean(w_i)) = mean score * n / (n + num_missing)

    The area factor of the paper is left out, as in nnDetection, whose numbers this gives: there an object counts as
    expected where the *centre* of a box is covered. What `predict` does is described in `merging`.

    Args:
        boxes: (N, 6).
        scores: (N,) in [0, 1].
        weights: (N,) positive.
        num_expected: (N,) how many predictions each box's place could have; a cluster expects the mean of its members.
        iou_threshold: overlap with the seed above which a box joins its cluster.

    Returns:
        Boxes (M, 6) and scores (M,) float32, clusters in the order of their seeds' scores.
    """
    clusters = cluster_boxes(boxes, scores, weights, iou_threshold)
    num_clusters = len(clusters.scores)
    num_found = per_cluster(torch.ones(len(boxes), dtype=torch.double), clusters.owner, num_clusters)
    num_missing = per_cluster(num_expected.double(), clusters.owner, num_clusters) / num_found - num_found
    score = clusters.scores.double() * num_found / (num_found + num_missing.clamp(min=0))
    return clusters.boxes, score.float()
