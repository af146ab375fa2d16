"""Voxels that a probe asks: as many inside of objects as outside, drawn once and the same for every encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medpretrain3d.boxes import Targets
from medpretrain3d.errors import UserError
from medpretrain3d.loading.batches import generator_at
from medpretrain3d.loading.crops import CropReader
from medpretrain3d.loading.object_crops import read_objects
from medpretrain3d.loading.sampling import CaseOrder, CropSampler
from medpretrain3d.loading.spatial_transform import IDENTITY, Patch
from medpretrain3d.store.corpus import CaseRef
from medpretrain3d.store.normalization import Normalization

_POINTS_STREAM = 1 << 61
"""Positions of the random numbers of points, beyond those of crops."""


@dataclass(frozen=True, eq=False)
class ProbePoints:
    """Points of one crop."""

    case_id: str
    position: int
    """Of the crop among all that are drawn."""
    points_vox: np.ndarray
    """(N, 3) int64 in the crop."""
    is_object: np.ndarray
    """(N,) bool."""


def sample_points(
    cases: Sequence[CaseRef],
    patch: Patch,
    window: Normalization,
    crops_per_case: int = 4,
    points_per_crop: int = 64,
    label: int | None = None,
    seed: int = 0,
) -> Iterator[tuple[Tensor, ProbePoints]]:
    """Draw crops of every case, three quarters of them on objects, and points of each.

    Half of the points lie inside of objects where a crop shows any, the others outside of all objects and ignore
    regions; none lies beyond the scan, which a crop may cover. A case without mask is taken at its boxes. Which crops
    and points is a function of the seed alone: windows change what is seen at them and not where they are.

    Args:
        cases: of the store.
        patch: (D, H, W) of a crop in voxels.
        window: of the encoder.
        crops_per_case: of each case.
        points_per_crop: inside and outside together.
        label: the class that is to be told from background, whose others are asked nothing; None for all.
        seed: of places and points.

    Yields:
        Image (C, D, H, W) float32, and its points.

    Raises:
        UserError: no case.
    """
    if not cases:
        raise UserError("no case to probe; wanted a split with at least one")
    order = CaseOrder(cases, seed)
    sampler = CropSampler(object_share=0.75, foreground_share=0.25)
    reader = CropReader(patch, window, crop_sampler=sampler)
    for position in range(len(cases) * crops_per_case):
        random, case = generator_at(seed, position), order.at(position).open()
        start = sampler.locate(sampler.choose(random), case, patch, random)
        image, targets = read_objects(reader, case, start, IDENTITY, random, min_visible=0.0).apply()
        ignored = _ignored(targets, patch) | _beyond(case.grid.shape, start, patch)
        random = generator_at(seed, _POINTS_STREAM + position)
        points, is_object = _draw(_inside(targets, patch), ignored, label, points_per_crop, random)
        yield image, ProbePoints(case.id, position, points, is_object)


def _inside(targets: Targets, patch: Patch) -> np.ndarray:
    """Return label + 1 inside of objects, 0 elsewhere: (D, H, W)."""
    if targets.mask is not None:
        return np.asarray(targets.mask.cpu().numpy())
    inside = np.zeros(patch, np.int64)
    for box, label in zip(targets.boxes.tolist(), targets.labels.tolist(), strict=True):
        inside[_region(box)] = label + 1
    return inside


def _beyond(shape: Sequence[int], start: Patch, patch: Patch) -> np.ndarray:
    """Return whether each voxel of a crop lies beyond the scan, where any network tells padding from an object."""
    beyond = np.ones(patch, bool)
    beyond[tuple(slice(max(-first, 0), max(size - first, 0)) for size, first in zip(shape, start, strict=True))] = False
    return beyond


def _ignored(targets: Targets, patch: Patch) -> np.ndarray:
    ignored = np.zeros(patch, bool)
    for box in [] if targets.ignore is None else targets.ignore.tolist():
        ignored[_region(box)] = True
    return ignored


def _region(box: Sequence[float]) -> tuple[slice, ...]:
    return tuple(slice(int(np.floor(box[axis])), int(np.ceil(box[axis + 3]))) for axis in range(3))


def _draw(
    inside: np.ndarray, ignored: np.ndarray, label: int | None, count: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    is_object = inside > 0 if label is None else inside == label + 1
    places = [np.flatnonzero(is_object & ~ignored), np.flatnonzero((inside == 0) & ~ignored)]
    drawn = [random.choice(one, min(count // 2, one.size), replace=False) for one in places]
    flat = np.concatenate(drawn)
    points = np.stack(np.unravel_index(flat, inside.shape), axis=1)
    return points, np.arange(flat.size) < drawn[0].size


def points_of_map(features: Tensor, points_vox: np.ndarray, stride: tuple[int, int, int]) -> Tensor:
    """Return the features (N, C) of the cells of a map (C, d, h, w) in which points (N, 3) in input voxels lie."""
    cells = torch.from_numpy(points_vox // np.array(stride)).to(features.device)
    return features[:, cells[:, 0], cells[:, 1], cells[:, 2]].T
