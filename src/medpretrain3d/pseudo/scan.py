"""All pseudo-objects of one scan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from medpretrain3d.pseudo.basins import basins
from medpretrain3d.pseudo.blobs import paste_blobs
from medpretrain3d.pseudo.body import find_body
from medpretrain3d.pseudo.options import PseudoOptions, kind_name
from medpretrain3d.pseudo.region import Dropped, Region, components, kept
from medpretrain3d.store.hidden_objects import hides_an_end
from medpretrain3d.store.unit import Unit

Volumes = tuple[float, float]
ORGAN_CM3: Volumes = (0.1, 1e6)
"""Smallest and largest volume of an organ: all but crumbs."""


@dataclass(frozen=True, eq=False)
class PseudoScan:
    """Pseudo-objects of a scan, and the image they are in."""

    image: np.ndarray
    """(D, H, W) int16; other than the scan where blobs were pasted."""
    regions: tuple[Region, ...]
    """By kind, first ranks first; they may overlap."""
    dropped: dict[str, Dropped]
    """By kind, how many candidates were left out, by reason."""

    def instances(self) -> tuple[np.ndarray, list[int]]:
        """Return a map (D, H, W) uint16 and the id of each region in it; 0 for one that others hide.

        Where regions overlap the smaller one is seen, so that what lies within another keeps its outline.
        """
        labels = np.zeros(self.image.shape, dtype=np.uint16)
        order = sorted(range(len(self.regions)), key=lambda index: -self.regions[index].num_voxels)
        for index in order:
            region = self.regions[index]
            labels[region.hull][region.mask] = index + 1
        seen = set(np.unique(labels).tolist())
        return labels, [index + 1 if index + 1 in seen else 0 for index in range(len(self.regions))]

    def partly_hidden(self, labels: np.ndarray, ids: Sequence[int]) -> list[int]:
        """Return the ids of regions whose ends the map of `instances` does not show."""
        return [
            number
            for number, one in zip(ids, self.regions, strict=True)
            if number and hides_an_end(labels[one.hull] == number, one.mask)
        ]


def find_pseudo_objects(
    image: np.ndarray,
    spacing_mm: Sequence[float],
    unit: Unit = "hu",
    options: PseudoOptions = PseudoOptions(),  # noqa: B008  frozen
    organ_regions: Iterable[Region] = (),
    seed: int = 0,
) -> PseudoScan:
    """Find the pseudo-objects of a scan; a function of its arguments alone.

    Bone components above thresholds, air cavities inside the body, watershed basins of the Gaussian gradient in soft
    tissue, pasted blobs, organs.

    Args:
        image: (D, H, W) int16.
        spacing_mm: along (D, H, W).
        unit: of the values; without one, bright and dark are quantiles of the body.
        options: numbers, thresholds and sizes.
        organ_regions: of a segmenter.
        seed: of the scan, for blobs.

    Example:
        >>> import numpy as np
        >>> from medpretrain3d.pseudo import find_pseudo_objects
        >>> scan = np.full((24, 24, 24), -1000, dtype=np.int16)
        >>> scan[2:-2, 2:-2, 2:-2] = 0
        >>> scan[8:12, 8:12, 8:12] = 900
        >>> found = find_pseudo_objects(scan, (4.0, 4.0, 4.0))
        >>> [(region.kind, region.box_vox) for region in found.regions if region.kind == "bone"]
        [('bone', (8.0, 8.0, 8.0, 12.0, 12.0, 12.0))]
    """
    body = find_body(image, unit, options)
    voxel_cm3 = float(np.prod(spacing_mm)) / 1000
    found: list[Region] = []
    dropped: dict[str, Dropped] = {}

    def keep(kind: str, candidates: Iterable[Region], num: int, volume_cm3: Volumes, num_small: int = 0) -> None:
        same_kind = [region for region in found if region.kind == kind]
        chosen, why = kept(candidates, num, volume_cm3, voxel_cm3, same_kind)
        found.extend(chosen)
        dropped[kind] = dropped.get(kind, Counter()) + why + Counter({"too small": num_small})

    def keep_components(kind: str, mask: np.ndarray, num: int, volume_cm3: Volumes) -> None:
        candidates, num_small = components(kind, mask & body.mask, volume_cm3[0] / voxel_cm3)
        keep(kind, candidates, num, volume_cm3, num_small)

    bone, air = kind_name("bone", unit), kind_name("air", unit)
    if options.num_bone:
        for threshold in body.bright:
            keep_components(bone, image > threshold, options.num_bone, options.bone_cm3)
    if options.num_air:
        for threshold in body.dark:
            keep_components(air, image < threshold, options.num_air, options.air_cm3)
    if options.num_tissue:
        for sigma_mm in options.sigma_mm:
            candidates = basins(image, spacing_mm, body, sigma_mm, options.tissue_cm3)
            keep("tissue", candidates, options.num_tissue, options.tissue_cm3)
    if options.num_blob:
        rng = np.random.Generator(np.random.Philox(key=np.array([options.seed, seed], dtype=np.uint64)))
        image, pasted = paste_blobs(image, spacing_mm, body.mask, options.num_blob, options.blob_mm, rng)
        found.extend(pasted)
        dropped["blob"] = Counter({"no room": options.num_blob - len(pasted)})
    keep("organ", organ_regions, np.iinfo(np.uint16).max, ORGAN_CM3)
    return PseudoScan(image, tuple(found), {kind: +why for kind, why in dropped.items() if +why})
