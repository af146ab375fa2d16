"""From what many overlapping tiles saw to one list of detections: boxes near a tile's border give way to whole ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medpretrain3d.boxes import Detections, box_iou, box_volume, nms
from medpretrain3d.inference.clustering import weighted_box_clustering
from medpretrain3d.inference.config import InferenceConfig
from medpretrain3d.inference.sightings import Sightings

# The best sightings of a class that are merged. Time grows with the square: 5,000 that hardly overlap, the worst case,
# took 0.3 s (nms) and 0.8 s (wbc) on one core.
MAX_SIGHTINGS = 5_000


def merge_sightings(
    sightings: Sightings, config: InferenceConfig, spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)
) -> Detections:
    """One detection per object out of what all tiles and views saw, class by class, best score first.

    A cut sighting that mostly lies in a better one goes first: its IoU with the whole box can be small, and suppression
    alone would leave it as a second object. Then `nms` keeps the sighting of highest rank (score times weight) with its
    own score, and `wbc` takes the weighted mean of box and score.

    Args:
        sightings: in voxels of the volume, clipped to it.
        config: the way of merging and its thresholds.
        spacing_mm: of the volume (D, H, W), for `config.min_size_mm`.
    """
    sightings = sightings[sightings.detections.scores >= config.score_threshold]
    merged = [
        _merge_class(sightings[sightings.detections.labels == label], label, config)
        for label in sightings.detections.labels.unique()
    ]
    found = Detections.cat(merged)
    extent_mm = (found.boxes[:, 3:] - found.boxes[:, :3]) * found.boxes.new_tensor(spacing_mm)  # (N, 3)
    return found[extent_mm.amax(dim=1) >= config.min_size_mm]


def _merge_class(sightings: Sightings, label: Tensor, config: InferenceConfig) -> Detections:
    weights = config.border_weight + (1 - config.border_weight) * sightings.depth
    ranks = sightings.detections.scores * weights  # which of two sightings of one object to believe
    best = ranks.argsort(descending=True, stable=True)[:MAX_SIGHTINGS]
    best = best[~_is_cut_copy(sightings.detections.boxes[best], ranks[best], sightings.is_cut[best])]
    boxes, scores = sightings.detections.boxes[best], sightings.detections.scores[best]
    if config.merge == "wbc":
        num_expected = sightings.num_expected[best]
        boxes, scores = weighted_box_clustering(boxes, scores, weights[best], num_expected, config.nms_iou)
    else:
        kept = nms(boxes, ranks[best], config.nms_iou)
        boxes, scores = boxes[kept], scores[kept]
    order = scores.argsort(descending=True, stable=True)[: config.max_per_class]
    order = order[scores[order] >= config.score_threshold]
    return Detections(boxes[order], scores[order], label.expand(len(order)))


def _is_cut_copy(boxes: Tensor, ranks: Tensor, is_cut: Tensor, block: int = 512) -> Tensor:
    """(N,) bool: True for a cut box of which half or more lies in a box that ranks above it."""
    is_copy = torch.zeros(len(boxes), dtype=torch.bool)
    for cut in torch.nonzero(is_cut)[:, 0].split(block):
        iou = box_iou(boxes[cut], boxes)
        volume_cut, volume = box_volume(boxes[cut])[:, None], box_volume(boxes)[None, :]
        # iou = i / (a + b - i), solved for the intersection i.
        covered = iou * (volume_cut + volume) / (1 + iou) / volume_cut
        is_copy[cut] = ((covered >= 0.5) & (ranks[None, :] > ranks[cut][:, None])).any(dim=1)
    return is_copy
