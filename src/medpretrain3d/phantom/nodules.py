"""Nodules: lobulated ellipsoids, solid or part-solid, some with spicules, that lie within the lung."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medpretrain3d.phantom import statistics
from medpretrain3d.phantom.space import OpenGrid, Slices, Space
from medpretrain3d.phantom.tubes import along, coverage

TRIES_PER_SIZE = 200
SHRINKAGE = 0.9
LEAST_MM = 4.0
REACH = 1.0
"""No surface is farther from its centre than this many diameters."""
GAP_MM = 4.0
"""Least distance kept between two nodules' boxes."""
MAX_HIDDEN = 0.25
"""Most of a nodule that may lie within vessels and airways; more, and nobody could see it."""


@dataclass(frozen=True)
class NoduleShape:
    """A surface given by its distance from the centre in every direction; unit size until scaled to a diameter."""

    rotation: np.ndarray
    """(3, 3), rows are the ellipsoid's axes."""
    semi_axes: np.ndarray
    """(3,)."""
    lobes: np.ndarray
    """(L, 3) unit vectors."""
    lobe_heights: np.ndarray
    """(L,) relative; negative ones are dents."""
    solid_share: float
    """Radius of the solid core relative to the whole: 1 for solid nodules."""
    spicules: np.ndarray
    """(S, 3) unit vectors along which thin strands leave the surface."""
    hu: float
    halo_hu: float

    @staticmethod
    def draw(rng: np.random.Generator) -> NoduleShape:
        """Return a random shape of longest axial diameter 1."""
        rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        num_lobes = int(rng.integers(3, 9))
        shape = NoduleShape(
            rotation=rotation,
            semi_axes=np.array([1.0, rng.uniform(0.7, 1.0), rng.uniform(0.55, 0.9)]),
            lobes=_unit(rng.standard_normal((num_lobes, 3))),
            lobe_heights=rng.uniform(-0.2, 0.4, num_lobes),
            solid_share=rng.uniform(0.4, 0.65) if rng.random() < statistics.SHARE_PART_SOLID else 1.0,
            spicules=_unit(rng.standard_normal((int(rng.integers(4, 12)), 3)))[: None if rng.random() < 0.35 else 0],
            hu=rng.uniform(0, 110),
            halo_hu=rng.uniform(-620, -430),
        )
        angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        axial = shape.radius(np.stack([0 * angle, np.sin(angle), np.cos(angle)], axis=1))
        longest = (axial + np.roll(axial, 32)).max()
        return NoduleShape(**{**shape.__dict__, "semi_axes": shape.semi_axes / longest})

    def radius(self, directions: np.ndarray) -> np.ndarray:
        """Return distance (...) from the centre to the surface along unit vectors (..., 3)."""
        on_axes = np.einsum("ij,...j->...i", self.rotation, directions) / self.semi_axes
        ellipsoid = 1 / np.sqrt((on_axes**2).sum(axis=-1))
        toward_lobe = np.einsum("lj,...j->...l", self.lobes, directions)
        result: np.ndarray = ellipsoid * (1 + (self.lobe_heights * np.exp(8 * (toward_lobe - 1))).sum(axis=-1))
        return result

    def depth_mm(self, diameter_mm: float, offsets_mm: OpenGrid) -> np.ndarray:
        """Return depth below the surface at places relative to the centre (z, y, x): negative outside."""
        z, y, x = np.broadcast_arrays(*offsets_mm)
        distance = np.sqrt(z**2 + y**2 + x**2)
        directions = np.stack([z, y, x], axis=-1) / np.maximum(distance, 1e-6)[..., None]
        return np.where(distance < 1e-6, 0.5 * diameter_mm, diameter_mm * self.radius(directions) - distance)


@dataclass(frozen=True)
class Nodule:
    """A nodule in its place; `diameter_mm` is its longest axial diameter."""

    shape: NoduleShape
    diameter_mm: float
    center_mm: np.ndarray


def place_nodules(
    space: Space, lung: np.ndarray, branches: np.ndarray, diameters_mm: np.ndarray, rng: np.random.Generator
) -> tuple[list[Nodule], np.ndarray]:
    """Find a place within the lung for every nodule, clear of the others and not hidden in a vessel.

    A nodule that fits nowhere in `TRIES_PER_SIZE` draws shrinks by a tenth and tries again; below `LEAST_MM` it is left
    out. At 2 mm voxels none of the 76 nodules of 60 cases had to shrink.

    Args:
        space: the room.
        lung: (D, H, W) bool, vessels included.
        branches: (D, H, W) bool, vessels and airways.
        diameters_mm: (N,) wished diameters.
        rng: source of randomness.

    Returns:
        The nodules, largest first, and the instance map (D, H, W) uint8 with ids from 1 in the same order.
    """
    instances = np.zeros(space.shape, dtype=np.uint8)
    nodules: list[Nodule] = []
    for wished_mm in sorted(diameters_mm, reverse=True):
        shape = NoduleShape.draw(rng)
        diameter_mm = float(wished_mm)
        while diameter_mm >= LEAST_MM:
            tried = (Nodule(shape, diameter_mm, center) for center in _lung_centers(space, lung, rng))
            nodule = next((nodule for nodule in tried if _fits(space, lung, branches, instances, nodule)), None)
            if nodule is not None:
                nodules.append(nodule)
                slices, mask = nodule_mask(space, nodule)
                instances[slices][mask] = len(nodules)
                break
            diameter_mm *= SHRINKAGE
    return nodules, instances


def nodule_room(space: Space, nodule: Nodule) -> tuple[Slices, OpenGrid]:
    """Return the voxels that the nodule may touch, and their coordinates relative to its centre."""
    return space.around(nodule.center_mm, REACH * nodule.diameter_mm + space.voxel_mm)


def nodule_mask(space: Space, nodule: Nodule) -> tuple[Slices, np.ndarray]:
    """The nodule's voxels: those whose centre lies within its surface, and at least the one nearest its centre."""
    slices, offsets = nodule_room(space, nodule)
    mask = nodule.shape.depth_mm(nodule.diameter_mm, offsets) > 0
    nearest = space.nearest_voxel(nodule.center_mm) - [part.start for part in slices]
    mask[tuple(nearest)] = True
    return slices, mask


def paint_nodule(space: Space, nodule: Nodule, image: np.ndarray, lung: np.ndarray) -> None:
    """Paint a nodule into the lung of `image` (D, H, W) in place; what is brighter than it stays."""
    slices, offsets = nodule_room(space, nodule)
    depth = nodule.shape.depth_mm(nodule.diameter_mm, offsets)
    solid_depth = depth - 0.5 * nodule.diameter_mm * (1 - nodule.shape.solid_share)
    part = image[slices]
    for hu, layer_depth in ((nodule.shape.halo_hu, depth), (nodule.shape.hu, solid_depth)):
        part += np.where(lung[slices], coverage(space, layer_depth), 0) * np.maximum(hu - part, 0)


def spicule_balls(nodule: Nodule, step_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Thin strands that taper from the nodule's surface into the lung: points (N, 3), radii (N,).

    They belong to the picture, not to the mask: an outline follows the nodule's body.
    """
    points, radii = [np.zeros((0, 3))], [np.zeros(0)]
    for direction in nodule.shape.spicules:
        surface_mm = nodule.diameter_mm * nodule.shape.radius(direction)
        ends = nodule.center_mm + np.outer([0.9 * surface_mm, 1.7 * surface_mm], direction)
        on_strand, its_radii = along(ends, np.array([0.08 * surface_mm + 0.3, 0.3]), step_mm)
        points.append(on_strand)
        radii.append(its_radii)
    return np.concatenate(points), np.concatenate(radii)


def _lung_centers(space: Space, lung: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`TRIES_PER_SIZE` places (T, 3) in mm, distributed as in LIDC, or from the lung itself where none is in it."""
    fractions = statistics.draw_places(rng, TRIES_PER_SIZE)
    extent = np.array(space.shape) * space.spacing_mm
    middle = np.array(space.first_mm) + 0.5 * (extent - space.spacing_mm)
    extent[1] = extent[2]  # LIDC's fields of view are square in plane
    centers = middle + (fractions - 0.5) * extent
    centers = centers[space.is_inside(lung, centers)]
    if len(centers) == 0:
        voxels = np.argwhere(lung)
        centers = space.voxel_center_mm(voxels[rng.integers(len(voxels), size=TRIES_PER_SIZE)])
    return centers


def _fits(space: Space, lung: np.ndarray, branches: np.ndarray, instances: np.ndarray, nodule: Nodule) -> bool:
    slices, mask = nodule_mask(space, nodule)
    if not lung[slices][mask].all() or branches[slices][mask].mean() > MAX_HIDDEN:
        return False
    around, _ = space.around(nodule.center_mm, REACH * nodule.diameter_mm + GAP_MM)
    return not instances[around].any()


def _unit(vectors: np.ndarray) -> np.ndarray:
    result: np.ndarray = vectors / np.sqrt((vectors**2).sum(axis=-1, keepdims=True))
    return result
