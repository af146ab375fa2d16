"""Raw detections of tiles and mirrored views: boxes in the volume, and how well each was seen, before merging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medpretrain3d.boxes import Detections, box_center, clip_boxes, cut_about_center, has_extent
from medpretrain3d.inference.tiles import Triple

# A cut box ends at the tile's face; regression leaves it within a voxel of it.
CUT_MARGIN_VOX = 1.0
# Stands for "no face": the volume ends before the tile does. Finite, so that regions can be mapped to another grid.
FAR_VOX = 1e6


@dataclass
class RawDetections:
    """Detections of tiles and views in voxels of the volume, not yet merged, and how each was seen.

    Example:
        >>> import torch
        >>> from medpretrain3d.boxes import Detections
        >>> from medpretrain3d.inference import RawDetections
        >>> found = Detections(torch.tensor([[2.0, 2, 2, 6, 6, 8]]), torch.tensor([0.9]), torch.tensor([0]))
        >>> seen = RawDetections.in_tile(found, start=(0, 0, 0), patch=(8, 8, 8), shape=(8, 8, 16))
        >>> seen.touches_border  # the tile ends within the volume, and the box at its face
        tensor([True])
    """

    detections: Detections
    border_distance: Tensor
    """(N,) how deep in its tile the box's centre lies: 0 at a face, 1 in the middle."""
    touches_face: Tensor
    """(N, 6) bool, in the order of a box's coordinates: the box ends at that face of its tile inside the volume, so the
    object may go on beyond it."""
    view: Tensor
    """(N,) int64, row of `views`: the tile and mirrored view that saw the box."""
    views: Tensor
    """(V, 6) every view of every tile that was run, also those without a detection: the region in which a box is seen
    whole, its faces inside the volume moved inwards by `CUT_MARGIN_VOX`, the others infinitely far (`FAR_VOX`)."""

    def __len__(self) -> int:
        return len(self.border_distance)

    def __getitem__(self, index: Tensor) -> RawDetections:
        return RawDetections(
            self.detections[index], self.border_distance[index], self.touches_face[index], self.view[index], self.views
        )

    @property
    def touches_border(self) -> Tensor:
        """(N,) bool: the box touches a face of its tile inside the volume."""
        return self.touches_face.any(dim=1)

    @staticmethod
    def in_tile(
        detections: Detections, start: Triple, patch: Triple, shape: Triple, keeps_centers: bool = False
    ) -> RawDetections:
        """Return raw detections of one view of one tile, clipped to the volume; boxes without extent there are gone.

        Args:
            detections: in voxels of the tile, on the CPU.
            start: min corner of the tile in the volume.
            patch: size of the tile.
            shape: size of the volume.
            keeps_centers: of a box that reaches over the volume both sides go, so that its center stays; one whose
                center lies outside is gone, and no other, also none without extent.
        """
        placed = detections.boxes.float() + torch.tensor(start * 2)
        boxes = clip_boxes(placed, shape)
        is_inside = has_extent(boxes)
        if keeps_centers:
            center = box_center(placed)
            is_inside = ((center >= 0) & (center <= torch.tensor(shape))).all(dim=1)
            boxes = cut_about_center(placed, shape)
        inside = torch.nonzero(is_inside)[:, 0]
        found = Detections(boxes, detections.scores.float(), detections.labels)[inside]
        low, high = _inner_faces(start, patch, shape)
        low, high = (low + CUT_MARGIN_VOX).clamp(min=-FAR_VOX), (high - CUT_MARGIN_VOX).clamp(max=FAR_VOX)
        touches_face = torch.cat([found.boxes[:, :3] < low, found.boxes[:, 3:] > high], dim=1)
        border_distance = center_border_distance(found.boxes, start, patch, shape)
        return RawDetections(
            found,
            border_distance,
            touches_face,
            torch.zeros(len(border_distance), dtype=torch.long),
            torch.cat([low, high])[None],
        )

    @staticmethod
    def cat(parts: Sequence[RawDetections]) -> RawDetections:
        """Return all raw detections of several parts, in the order given."""
        if not parts:
            return RawDetections(
                Detections.cat([]),
                torch.zeros(0),
                torch.zeros(0, 6, dtype=torch.bool),
                torch.zeros(0, dtype=torch.long),
                torch.zeros(0, 6),
            )
        joined = Detections(
            torch.cat([part.detections.boxes for part in parts]),
            torch.cat([part.detections.scores for part in parts]),
            torch.cat([part.detections.labels for part in parts]),
        )
        first_view = torch.tensor([0, *(len(part.views) for part in parts)]).cumsum(0).tolist()
        return RawDetections(
            joined,
            torch.cat([part.border_distance for part in parts]),
            torch.cat([part.touches_face for part in parts]),
            torch.cat([part.view + first for part, first in zip(parts, first_view, strict=False)]),
            torch.cat([part.views for part in parts]),
        )


def num_unseen_views(boxes: Tensor, views: Tensor, owner: Tensor, owner_view: Tensor, block: int = 256) -> Tensor:
    """Return number of views that could have seen each box whole and hold no detection of it: (M,) int64.

    Args:
        boxes: (M, 6) merged objects in voxels of the volume.
        views: (V, 6) regions in which boxes are seen whole.
        owner: (E,) int64 index into `boxes`, and
        owner_view: (E,) int64 row of `views`: a detection of that object in that view.
        block: boxes looked at together; bounds the memory at `block x V`.
    """
    order = owner.argsort(stable=True)
    owner, owner_view = owner[order], owner_view[order]
    counts = []
    for start in range(0, len(boxes), block):
        part = boxes[start : start + block, None]  # (b, 1, 6)
        could_see = (part[..., :3] >= views[:, :3]).all(dim=2) & (part[..., 3:] <= views[:, 3:]).all(dim=2)  # (b, V)
        first, last = torch.searchsorted(owner, torch.tensor([start, start + len(part)])).tolist()
        could_see[owner[first:last] - start, owner_view[first:last]] = False
        counts.append(could_see.sum(dim=1))
    return torch.cat(counts) if counts else torch.zeros(0, dtype=torch.long)


def center_border_distance(boxes: Tensor, start: Triple, patch: Triple, shape: Triple) -> Tensor:
    """1 for a box centred in a tile's middle, falling linearly to 0 at its faces: (N,).

    A face that is the volume's own end cuts nothing, so nearness to it does not count.

    Args:
        boxes: (N, 6) in voxels of the volume.
        start: min corner of the tile.
        patch: size of the tile.
        shape: size of the volume.
    """
    low, high = _inner_faces(start, patch, shape)
    center = box_center(boxes)
    half = boxes.new_tensor(patch) / 2
    return (torch.minimum(center - low, high - center) / half).clamp(0, 1).amin(dim=1)


def _inner_faces(start: Triple, patch: Triple, shape: Triple) -> tuple[Tensor, Tensor]:
    """Return a tile's faces inside the volume, (3,) low and (3,) high; infinitely far where the volume ends first."""
    low = [float(first) if first > 0 else -torch.inf for first in start]
    high = [
        float(first + width) if first + width < size else torch.inf
        for first, width, size in zip(start, patch, shape, strict=True)
    ]
    return torch.tensor(low), torch.tensor(high)
