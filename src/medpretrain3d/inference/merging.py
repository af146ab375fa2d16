"""From raw detections of overlapping tiles to one list: whole boxes are merged, cut ones give way or are joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medpretrain3d.boxes import (
    Detections,
    box_center,
    box_size,
    box_volume,
    covered_by,
    nms,
    suppress,
    suppress_by_distance,
)
from medpretrain3d.inference.clustering import Clusters, cluster_boxes, per_cluster
from medpretrain3d.inference.config import InferenceConfig
from medpretrain3d.inference.joining import join_pieces
from medpretrain3d.inference.raw_detections import RawDetections, num_unseen_views

MIN_COVERED = 0.5
"""Share of a cut box that lies in a better one from which on both are one object."""
MIN_SCORE_RATIO = 0.5
"""A whole box speaks for a cut one of up to twice its score; a weak whole box is no reason to drop a sure cut one."""


def merge_raw_detections(
    raw_detections: RawDetections, config: InferenceConfig, spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)
) -> Detections:
    """Merge raw detections of all tiles and views to one detection per object, class by class, best score first.

    1. Boxes that no tile face cuts are merged: `nms` keeps the one of highest rank (score times weight) with its own
       score, `wbc` takes the weighted mean of box and score (`cluster_boxes`).
    2. A cut box of which half or more lies in such an object of at least half its score is a raw detection of that
       object and adds nothing but that its view has seen it.
    3. Other cut boxes are joined where neighbouring tiles agree (`join_pieces`). Of those that remain and mostly lie in
       each other, joined ones stand for the others, longer ones for shorter ones, then those of higher rank.
    4. With `wbc`, an object found by `n` views loses score for every view that could have seen it whole and holds no
       detection of it: score * n / (n + num_missing).
    5. Of objects that overlap by more than `nms_iou` the one of the higher score stays, if it is not too small.

    `distance` knows no extents and nothing that is cut: of boxes whose centers are within `merge_distance_mm`, the one
    of highest rank stays with its own score.

    Time grows with the number of detections times the number of objects; nothing is cut off before merging.

    Args:
        raw_detections: in voxels of the volume, clipped to it.
        config: the way of merging and its thresholds.
        spacing_mm: of the volume (D, H, W), for lengths in mm.
    """
    raw_detections = raw_detections[torch.nonzero(raw_detections.detections.scores >= config.score_threshold)[:, 0]]
    merged = [
        _merge_class(
            raw_detections[torch.nonzero(raw_detections.detections.labels == label)[:, 0]], label, config, spacing_mm
        )
        for label in raw_detections.detections.labels.unique()
    ]
    return Detections.cat(merged)


@dataclass(frozen=True)
class _Objects:
    """Merged objects, and which of them each raw detection speaks of."""

    boxes: Tensor
    scores: Tensor
    owner: Tensor
    """(N,) int64."""
    is_member: Tensor
    """(N,) bool: the detection made the object's box and score; False if it only says that its view has seen it."""


def _merge_class(
    raw_detections: RawDetections, label: Tensor, config: InferenceConfig, spacing_mm: Sequence[float]
) -> Detections:
    if config.merge == "distance":
        return _merge_near(raw_detections, config, spacing_mm)
    objects = _objects(raw_detections, config)
    boxes, scores = objects.boxes, objects.scores
    if config.merge == "wbc":
        scores = scores * _share_of_views(objects, raw_detections)
    size_mm = (box_size(boxes) * boxes.new_tensor(spacing_mm)).amax(dim=1)
    order = nms(boxes, scores, config.nms_iou)
    order = order[(scores[order] >= config.score_threshold) & (size_mm[order] >= config.min_size_mm)]
    order = order[: config.max_per_class]
    return Detections(boxes[order], scores[order], label.expand(len(order)))


def _merge_near(raw_detections: RawDetections, config: InferenceConfig, spacing_mm: Sequence[float]) -> Detections:
    found = raw_detections.detections
    centers_mm = box_center(found.boxes) * found.boxes.new_tensor(spacing_mm)
    kept, _ = suppress_by_distance(
        centers_mm, found.scores * _weights(raw_detections, config), config.merge_distance_mm
    )
    best = found[kept]
    return best[best.scores.argsort(descending=True, stable=True)[: config.max_per_class]]


def _weights(raw_detections: RawDetections, config: InferenceConfig) -> Tensor:
    """Return what each detection counts for how deep in its tile it was seen: (N,)."""
    return config.border_weight + (1 - config.border_weight) * raw_detections.border_distance


def _objects(raw_detections: RawDetections, config: InferenceConfig) -> _Objects:
    found, touches_border = raw_detections.detections, raw_detections.touches_border
    weights = _weights(raw_detections, config)
    whole, cut = torch.nonzero(~touches_border)[:, 0], torch.nonzero(touches_border)[:, 0]
    merged = _merge_whole(found.boxes[whole], found.scores[whole], weights[whole], config)
    owner = torch.full((len(touches_border),), -1)
    owner[whole] = merged.owner
    if len(cut):
        owner[cut] = _owner_of_copies(found.boxes[cut], found.scores[cut], merged)
    pieces = torch.nonzero(owner < 0)[:, 0]
    longer = _merge_pieces(raw_detections[pieces], weights[pieces], config)
    owner[pieces] = len(merged.scores) + longer.owner
    is_member = ~touches_border
    is_member[pieces] = True
    boxes, scores = torch.cat([merged.boxes, longer.boxes]), torch.cat([merged.scores, longer.scores])
    return _Objects(boxes, scores, owner, is_member)


def _merge_whole(boxes: Tensor, scores: Tensor, weights: Tensor, config: InferenceConfig) -> Clusters:
    if config.merge == "wbc":
        return cluster_boxes(boxes, scores, weights, config.nms_iou)
    kept, owner = suppress(boxes, scores * weights, config.nms_iou)
    return Clusters(boxes[kept], scores[kept], owner)


def _owner_of_copies(boxes: Tensor, scores: Tensor, whole: Clusters) -> Tensor:
    """Per cut box the best whole object that it mostly lies in, -1 for none: (N,)."""
    order = whole.scores.argsort(descending=True, stable=True)
    owner = covered_by(
        torch.cat([whole.boxes[order], boxes]),
        torch.cat([whole.scores[order], scores]),
        MIN_COVERED,
        MIN_SCORE_RATIO,
        num_covers=len(order),
    )[len(order) :]
    is_copy = owner < len(order)
    return torch.where(is_copy, order[owner.where(is_copy, 0)] if len(order) else owner, -1)


def _merge_pieces(pieces: RawDetections, weights: Tensor, config: InferenceConfig) -> Clusters:
    found = pieces.detections
    joined = join_pieces(found.boxes, found.scores, pieces.touches_face, pieces.views[pieces.view])
    ranks = joined.scores * per_cluster(weights, joined.owner, len(joined.scores)) / joined.num_pieces
    volumes = box_volume(joined.boxes)
    # Joined boxes come first, those that end at no tile's face before the others, and the longer the more complete.
    is_joined, share = joined.num_pieces > 1, volumes / volumes.max() if len(volumes) else volumes
    ranks = torch.where(is_joined, 3.0 - 1.5 * joined.touches_border.float() + share, ranks)
    order = ranks.argsort(descending=True, stable=True)
    cover = covered_by(joined.boxes[order], joined.scores[order], MIN_COVERED, MIN_SCORE_RATIO)  # (J,) places in order
    kept, place = cover.unique(return_inverse=True)
    owner = torch.empty_like(order)
    owner[order] = place
    owner = owner[joined.owner]  # (P,)
    scores = joined.scores[order[kept]]
    if config.merge == "wbc":
        weighted = per_cluster(weights * found.scores, owner, len(kept))
        scores = weighted / per_cluster(weights, owner, len(kept))
    return Clusters(joined.boxes[order[kept]], scores, owner)


def _share_of_views(objects: _Objects, raw_detections: RawDetections) -> Tensor:
    """Compute, of the views that found an object or could have seen it whole, the share that found it: (M,)."""
    num_views, count = max(1, len(raw_detections.views)), len(objects.scores)
    pairs = (objects.owner * num_views + raw_detections.view)[objects.is_member].unique()
    num_found = per_cluster(torch.ones(len(pairs)), pairs // num_views, count)
    num_missing = num_unseen_views(objects.boxes, raw_detections.views, objects.owner, raw_detections.view)
    return num_found / (num_found + num_missing)
