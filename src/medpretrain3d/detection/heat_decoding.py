"""From heat maps to detections: the peaks, with the offsets and extents that were learned there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from medpretrain3d.boxes import Detections, box_center, corners_of, cut_about_center, suppress_by_distance
from medpretrain3d.detection.box_grid import Shape
from medpretrain3d.detection.peaks import peaks

MOST_CELLS = 2.0
"""Farthest that a learned center lies from its cell's, in cells."""
TOUCHING_CELLS = 1.75
"""In cells: the centers of the 26 that touch a cell lie nearer, of all others farther away."""
LARGEST_LOG = 4.0
"""Of a learned extent over `diameter_mm`: a factor of 55."""


@dataclass(frozen=True)
class HeatDecoder:
    """The peaks of maps as boxes, of near ones of a class the best; arguments as in `HeatMap`."""

    stride: Shape
    spacing_mm: tuple[float, float, float]
    diameter_mm: float
    min_distance_mm: float
    score_threshold: float
    candidates_per_image: int
    detections_per_image: int

    def candidates(
        self, logits: Tensor, values: Tensor, finite: Tensor, cells: Tensor, shape: Shape, image_shape: Shape
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the best peaks of each image, best first, on the device of the predictions.

        Args:
            logits: (B, A, K) float32.
            values: (B, A, V) float32: nothing, offsets in cells, or these and logarithms of extents.
            finite: (B, A) bool, cells whose predictions are.
            cells: (A, 6).
            shape: cells (d, h, w), A in all.
            image_shape: voxels (D, H, W).

        Returns:
            Boxes (B, N, 6) inside the image, scores (B, N), -1 where there is no peak, labels (B, N) int64, and the
            places of their cells in the map (B, N, 3) int64.
        """
        d, h, w = shape
        maps = rearrange(logits.masked_fill(~finite[..., None], -torch.inf), "b (d h w) k -> b k d h w", d=d, h=h, w=w)
        cell_mm = [step * edge for step, edge in zip(self.stride, self.spacing_mm, strict=True)]
        is_peak = peaks(maps, self.min_distance_mm, cell_mm) & (maps > -torch.inf)
        scores = maps.sigmoid().masked_fill(~is_peak, -1.0).flatten(1)
        best = scores.topk(min(self.candidates_per_image, scores.shape[1]), dim=1)
        cell, label = best.indices % (d * h * w), best.indices // (d * h * w)
        centers = box_center(cells)[cell]  # (B, N, 3)
        sizes = (self.diameter_mm / _row(self.spacing_mm, centers)).expand_as(centers)
        of_cell = values.gather(1, cell[..., None].expand(-1, -1, values.shape[2]))
        if values.shape[2]:
            centers = centers + of_cell[..., :3].clamp(-MOST_CELLS, MOST_CELLS) * _row(self.stride, centers)
        if values.shape[2] > 3:
            sizes = sizes * of_cell[..., 3:].clamp(-LARGEST_LOG, LARGEST_LOG).exp()
        boxes = cut_about_center(corners_of(centers, sizes).flatten(0, 1), image_shape)
        places = torch.stack([cell // (h * w), cell // w % h, cell % w], dim=-1)
        return boxes.view(*cell.shape, 6), best.values, label, places

    def compare(self, boxes: Tensor, scores: Tensor, labels: Tensor, places: Tensor) -> Detections:
        """Return the detections of an image, best score first, of its candidates (N) on the CPU."""
        kept = scores >= max(0.0, self.score_threshold)
        found, places = Detections(boxes[kept], scores[kept], labels[kept]), places[kept].float()
        centers_mm = box_center(found.boxes) * _row(self.spacing_mm, found.boxes)
        best = []
        for label in found.labels.unique():
            rows = torch.nonzero(found.labels == label)[:, 0]
            # An object midway between cells makes equal peaks on cells that touch, which may be farther apart in mm.
            rows = rows[suppress_by_distance(places[rows], found.scores[rows], TOUCHING_CELLS)[0]]
            best.append(rows[suppress_by_distance(centers_mm[rows], found.scores[rows], self.min_distance_mm)[0]])
        found = found[torch.cat(best)] if best else found
        return found[found.scores.argsort(descending=True, stable=True)[: self.detections_per_image]]


def _row(numbers: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(numbers).to(like.device, like.dtype, non_blocking=True)
