"""What tiles and mirrored views saw, before it is merged: boxes in the volume, and how well each was seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medpretrain3d.boxes import Detections, clip_boxes
from medpretrain3d.inference.tiles import Triple

# A cut box ends at the tile's face; regression leaves it within a voxel of it.
CUT_MARGIN_VOX = 1.0


@dataclass
class Sightings:
    """Detections of tiles and views in voxels of the volume, not yet merged, and how each was seen."""

    detections: Detections
    depth: Tensor
    """(N,) how deep in its tile the box's centre lies: 0 at a face, 1 in the middle."""
    is_cut: Tensor
    """(N,) bool: the box ends at a tile face inside the volume, so the object may go on beyond it."""
    num_expected: Tensor
    """(N,) how many tiles and views could have seen the place."""

    def __len__(self) -> int:
        return len(self.depth)

    def __getitem__(self, index: Tensor) -> Sightings:
        return Sightings(self.detections[index], self.depth[index], self.is_cut[index], self.num_expected[index])

    @staticmethod
    def in_tile(detections: Detections, start: Triple, patch: Triple, shape: Triple) -> Sightings:
        """What one tile saw, clipped to the volume; boxes without extent there (in the padding) are gone.

        `num_expected` is 1 until the other tiles are known.

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
        depth = center_depth(found.boxes, start, patch, shape)
        return Sightings(found, depth, is_cut.any(dim=1), torch.ones(len(depth)))

    @staticmethod
    def cat(parts: Sequence[Sightings]) -> Sightings:
        """All sightings of several parts, in the order given."""
        if not parts:
            return Sightings(Detections.cat([]), torch.zeros(0), torch.zeros(0, dtype=torch.bool), torch.zeros(0))
        joined = Detections(
            torch.cat([part.detections.boxes for part in parts]),
            torch.cat([part.detections.scores for part in parts]),
            torch.cat([part.detections.labels for part in parts]),
        )
        return Sightings(
            joined,
            torch.cat([part.depth for part in parts]),
            torch.cat([part.is_cut for part in parts]),
            torch.cat([part.num_expected for part in parts]),
        )


def center_depth(boxes: Tensor, start: Triple, patch: Triple, shape: Triple) -> Tensor:
    """1 for a box centred in a tile's middle, falling linearly to 0 at its faces: (N,).

    A face that is the volume's own end cuts nothing, so nearness to it does not count.

    Args:
        boxes: (N, 6) in voxels of the volume.
        start: min corner of the tile.
        patch: size of the tile.
        shape: size of the volume.
    """
    low, high = _inner_faces(start, patch, shape)
    center = (boxes[:, :3] + boxes[:, 3:]) / 2
    half = boxes.new_tensor(patch) / 2
    return (torch.minimum(center - low, high - center) / half).clamp(0, 1).amin(dim=1)


def _inner_faces(start: Triple, patch: Triple, shape: Triple) -> tuple[Tensor, Tensor]:
    """Where a tile ends inside the volume, (3,) low and (3,) high; infinitely far where the volume ends first."""
    low = [float(first) if first > 0 else -torch.inf for first in start]
    high = [
        float(first + width) if first + width < size else torch.inf
        for first, width, size in zip(start, patch, shape, strict=True)
    ]
    return torch.tensor(low), torch.tensor(high)
