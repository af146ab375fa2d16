"""Global and local crops of one region, for self-distillation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from medpretrain3d.errors import UserError
from medpretrain3d.loading.crops import CropReader, DeferredCrop
from medpretrain3d.loading.sampling import CaseOrder
from medpretrain3d.loading.spatial_transform import Patch, SpatialTransform
from medpretrain3d.loading.views import Sample, Views
from medpretrain3d.store.case import Case
from medpretrain3d.values import Count, PositiveShares, Sizes

NUM_GLOBAL = 2


class MultiCrop(Views):
    """Two global crops and several local ones of a region, each with its own transform (DINO, DINOv2).

    `image` (2, C, D, H, W) are the global crops, of the patch of the recipe; `local` (V, C, d, h, w) the local ones.
    `affine` (2, 3, 4) float32 takes places in a global crop to a frame that both share, as that of TwoViews.

    A crop with a scale (a, b) covers a share of the region's volume between the two, in the proportions of the region,
    and is resized to its voxels; one without covers its voxels as they are.

    Args:
        num_local: V.
        local_patch: size (D, H, W) of a local crop in voxels.
        region: size (D, H, W) in voxels of what crops are taken from; the patch, if nothing is said.
        global_scale: share of the region's volume that a global crop covers.
        local_scale: the same of a local one.

    Raises:
        UserError: by `check`, an elastic deformation, which has no affine, or crops without a scale that are larger
            than the region.
    """

    def __init__(
        self,
        num_local: Count = 8,
        local_patch: Sizes = (48, 48, 48),
        region: Sizes | None = None,
        global_scale: PositiveShares | None = (0.48, 1.0),
        local_scale: PositiveShares | None = (0.16, 0.48),
    ) -> None:
        self.num_local = num_local
        self.local_patch: Patch = (local_patch[0], local_patch[1], local_patch[2])
        self.region: Patch | None = None if region is None else (region[0], region[1], region[2])
        self.global_scale = global_scale
        self.local_scale = local_scale

    def sizes(self, patch: Patch) -> tuple[Patch, ...]:
        """Return the sizes of global and local crops."""
        return (patch, self.local_patch)

    def check(self, reader: CropReader, order: CaseOrder) -> None:
        """An elastic deformation has no affine, and crops lie in their region."""
        if reader.spatial is not None and reader.spatial.elastic_p:
            raise UserError("MultiCrop: elastic deformation leaves no exact geometry; set elastic_p to 0")
        region = self.region or reader.patch
        for name, patch, scale in (
            ("data.patch", reader.patch, self.global_scale),
            ("local_patch", self.local_patch, self.local_scale),
        ):
            if scale is None and any(edge > whole for edge, whole in zip(patch, region, strict=True)):
                raise UserError(
                    f"MultiCrop: got {name} {patch} without a scale, wanted crops inside of the region {region}; raise "
                    "region, or give them a scale"
                )

    def draw(self, reader: CropReader, order: CaseOrder, position: int, random: np.random.Generator) -> Sample:
        """Return the crops of the case at the position."""
        case = order.at(position).open()
        region = self.region or reader.patch
        corner = np.array(reader.crop_sampler.draw(case, region, random))
        small = replace(reader, patch=self.local_patch)
        placed = [_placed(reader, case, corner, region, self.global_scale, random) for _ in range(NUM_GLOBAL)]
        local = [_placed(small, case, corner, region, self.local_scale, random) for _ in range(self.num_local)]
        first = np.array(placed[0][0])
        shared = [transform.affine(_triple(np.array(start) - first), reader.patch) for start, transform in placed]
        return {
            "image": _read(reader, case, placed, random),
            "local": _read(small, case, local, random),
            "affine": torch.from_numpy(np.stack(shared).astype(np.float32)),
        }


def _placed(
    reader: CropReader,
    case: Case,
    corner: np.ndarray,
    region: Patch,
    scale: tuple[float, float] | None,
    random: np.random.Generator,
) -> tuple[Patch, SpatialTransform]:
    """Draw where a crop stands in a region, and what it is resized, turned and mirrored by."""
    patch, transform = np.array(reader.patch), reader.draw_placement(case, random)
    extent = patch.astype(np.float64)
    if scale is not None:
        extent = np.array(region) * np.cbrt(random.uniform(*scale))
        transform = replace(transform, matrix=transform.matrix @ np.diag(extent / patch))
    room = np.maximum(np.array(region) - extent, 0)
    center = corner + room * random.random(3) + extent / 2
    return _triple(np.rint(center - patch / 2).astype(int)), transform


def _read(
    reader: CropReader, case: Case, placed: list[tuple[Patch, SpatialTransform]], random: np.random.Generator
) -> list[DeferredCrop]:
    return [reader.image(case, start, transform, random) for start, transform in placed]


def _triple(place: np.ndarray) -> Patch:
    d, h, w = place.tolist()
    return (d, h, w)
