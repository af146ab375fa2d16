"""From what many overlapping tiles saw to one list of detections: boxes near a tile's border give way to whole ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medpretrain3d.boxes import Detections, box_iou, box_volume, clip_boxes, nms
from medpretrain3d.inference.clustering import weighted_box_clustering
from medpretrain3d.inference.config import InferenceConfig
from medpretrain3d.inference.tiles import Triple

# Weight of a box centred on a tile's border, against 1 in the tile's middle. Above 0 so that a box seen by one tile
# only, right at its border, still has a weighted mean.
BORDER_WEIGHT = 0.1
# A cut box ends at the tile's face; regression leaves it within a voxel of it.
CUT_MARGIN_VOX = 1.0
# The best sightings of a class that are merged. Time grows with the square: 5,000 that hardly overlap, the worst case,
# took 0.3 s (nms) and 0.8 s (wbc) on one core.
MAX_SIGHTINGS = 5_000


@dataclass
class Sightings:
    """Detections of tiles and views in voxels of the volume, not yet merged, and how each was seen."""

    detections: Detections
    weights: Tensor
    """(N,) in `BORDER_WEIGHT` .. 1: how far from its tile's border the box was seen."""
    is_cut: Tensor
    """(N,) bool: the box ends at a tile face inside the volume, so the object may go on beyond it."""

    @property
    def ranks(self) -> Tensor:
        """(N,) score times weight: which of two sightings of one object to believe."""
        return self.detections.scores * self.weights

    def __getitem__(self, index: Tensor) -> Sightings:
        return Sightings(self.detections[index], self.weights[index], self.is_cut[index])

    @staticmethod
    def in_tile(detections: Detections, start: Triple, patch: Triple, shape: Triple) -> Sightings:
        """What one tile saw, clipped to the volume; boxes without extent there (in the padding) are gone.

        Args:
            detections: in voxels of the tile, on the CPU.
            start: min corner of the tile in the volume.
            patch: size of the tile.
            shape: size of the volume.
        """
        boxes = clip_boxes(detections.boxes.float() + torch.tensor(start * 2), shape)
        inside = torch.nonzero((boxes[:, 3:] > boxes[:, :3]).all(dim=1))[:, 0]
        found = Detections(boxes, detections.scores.float(), detections.labels)[inside]
        low, high = _inner_faces(start, patch, shape)
        is_cut = (found.boxes[:, :3] < low + CUT_MARGIN_VOX) | (found.boxes[:, 3:] > high - CUT_MARGIN_VOX)
        return Sightings(found, center_weights(found.boxes, start, patch, shape), is_cut.any(dim=1))

    @staticmethod
    def cat(parts: Sequence[Sightings]) -> Sightings:
        """All sightings of several tiles, in the order given."""
        if not parts:
            return Sightings(Detections.cat([]), torch.zeros(0), torch.zeros(0, dtype=torch.bool))
        joined = Detections(
            torch.cat([part.detections.boxes for part in parts]),
            torch.cat([part.detections.scores for part in parts]),
            torch.cat([part.detections.labels for part in parts]),
        )
        return Sightings(
            joined, torch.cat([part.weights for part in parts]), torch.cat([part.is_cut for part in parts])
        )


def merge_sightings(sightings: Sightings, num_expected: Tensor, config: InferenceConfig) -> Detections:
    """One detection per object out of what all tiles and views saw, class by class, best score first.

    A cut sighting that mostly lies in a better one goes first: its IoU with the whole box can be small, and suppression
    alone would leave it as a second object. Then `nms` keeps the sighting of highest rank (score times weight) with its
    own score, and `wbc` takes the weighted mean of box and score.

    Args:
        sightings: in voxels of the volume, clipped to it.
        num_expected: (N,) how many tiles and views could have seen the place of each.
        config: the way of merging and its thresholds.
    """
    merged = []
    for label in sightings.detections.labels.unique():
        index = torch.nonzero(sightings.detections.labels == label)[:, 0]
        index = index[sightings.ranks[index].argsort(descending=True, stable=True)[:MAX_SIGHTINGS]]
        index = index[~_is_cut_copy(sightings[index])]
        boxes, scores = sightings.detections.boxes[index], sightings.detections.scores[index]
        weights = sightings.weights[index]
        if config.merge == "wbc":
            boxes, scores = weighted_box_clustering(boxes, scores, weights, num_expected[index], config.nms_iou)
        else:
            kept = nms(boxes, scores * weights, config.nms_iou)
            boxes, scores = boxes[kept], scores[kept]
        best = scores.argsort(descending=True, stable=True)[: config.max_per_class]
        best = best[scores[best] >= config.score_threshold]
        merged.append(Detections(boxes[best], scores[best], label.expand(len(best))))
    return Detections.cat(merged)


def center_weights(boxes: Tensor, start: Triple, patch: Triple, shape: Triple) -> Tensor:
    """1 in a tile's middle, falling linearly to `BORDER_WEIGHT` at its faces: (N,).

    A face that is the volume's own end cuts nothing, so nearness to it costs nothing.

    Args:
        boxes: (N, 6) in voxels of the volume.
        start: min corner of the tile.
        patch: size of the tile.
        shape: size of the volume.
    """
    low, high = _inner_faces(start, patch, shape)
    center = (boxes[:, :3] + boxes[:, 3:]) / 2
    half = boxes.new_tensor(patch) / 2
    depth = (torch.minimum(center - low, high - center) / half).clamp(0, 1).amin(dim=1)  # 0 at a face, 1 in the middle
    return BORDER_WEIGHT + (1 - BORDER_WEIGHT) * depth


def _inner_faces(start: Triple, patch: Triple, shape: Triple) -> tuple[Tensor, Tensor]:
    """Where a tile ends inside the volume, (3,) low and (3,) high; infinitely far where the volume ends first."""
    low = [float(first) if first > 0 else -torch.inf for first in start]
    high = [
        float(first + width) if first + width < size else torch.inf
        for first, width, size in zip(start, patch, shape, strict=True)
    ]
    return torch.tensor(low), torch.tensor(high)


def _is_cut_copy(sightings: Sightings, block: int = 512) -> Tensor:
    """(N,) bool: True for a cut box of which half or more lies in a box that ranks above it."""
    boxes, ranks = sightings.detections.boxes, sightings.ranks
    is_copy = torch.zeros(len(boxes), dtype=torch.bool)
    for cut in torch.nonzero(sightings.is_cut)[:, 0].split(block):
        iou = box_iou(boxes[cut], boxes)
        volume_cut, volume = box_volume(boxes[cut])[:, None], box_volume(boxes)[None, :]
        # iou = i / (a + b - i), solved for the intersection i.
        covered = iou * (volume_cut + volume) / (1 + iou) / volume_cut
        is_copy[cut] = ((covered >= 0.5) & (ranks[None, :] > ranks[cut][:, None])).any(dim=1)
    return is_copy
