"""One phantom: a pure function of (seed, index, spacing)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medpretrain3d.phantom import statistics
from medpretrain3d.phantom.body import Body
from medpretrain3d.phantom.lookalikes import LungCanvas, paint_lookalikes
from medpretrain3d.phantom.nodules import paint_nodule, place_nodules, spicule_balls
from medpretrain3d.phantom.noise import point_spread, reconstruction_noise
from medpretrain3d.phantom.skeleton import paint_bones
from medpretrain3d.phantom.space import Space
from medpretrain3d.phantom.tissue import GAS_HU, paint_tissue
from medpretrain3d.phantom.tubes import coverage, tube_depth
from medpretrain3d.phantom.vessels import bronchi_balls, grow_lung_vessels, tree_balls
from medpretrain3d.store.grid import Grid

STREAMS = ("nodules", "body", "tissue", "bones", "vessels", "places", "lookalikes", "noise", "world", "orientation")
"""Independent sources of randomness: adding a rib does not move a nodule."""

BRONCHUS_WALL_MM = 1.0


@dataclass(frozen=True)
class PhantomCase:
    """A synthetic chest CT in canonical axes (D, H, W) = (Superior, Posterior, Left).

    Args:
        image: (D, H, W) int16 HU.
        instances: (D, H, W) uint8, 0 for background, nodule ids from 1.
        diameters_mm: longest axial diameter of nodule 1, 2, ...
        lung: (D, H, W) bool, vessels and nodules included.
        grid: where the voxels lie, LPS mm.

    Example:
        >>> from medpretrain3d.phantom import make_case
        >>> case = make_case(seed=0, index=0, spacing_mm=8.0)
        >>> case.image.shape == case.instances.shape == case.grid.shape
        True
        >>> int(case.instances.max()) == len(case.diameters_mm)
        True
    """

    image: np.ndarray
    instances: np.ndarray
    diameters_mm: tuple[float, ...]
    lung: np.ndarray
    grid: Grid


def case_rng(seed: int, index: int, stream: str) -> np.random.Generator:
    """Return the generator of one stream of one case; the same on every machine."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index, STREAMS.index(stream)])))


def planned_diameters_mm(seed: int, index: int) -> np.ndarray:
    """Return diameters (N,) of a case's nodules; N is 0 for a case without any. Needs no painting."""
    rng = case_rng(seed, index, "nodules")
    return statistics.draw_diameters_mm(rng, int(statistics.draw_num_nodules(rng, 1)[0]))


def make_case(seed: int, index: int, spacing_mm: float) -> PhantomCase:
    """Paint case `index` of the phantom `seed` on voxels near `spacing_mm`."""
    rngs = {stream: case_rng(seed, index, stream) for stream in STREAMS}
    body = Body.draw(rngs["body"])
    space = body.space(rngs["body"], spacing_mm)
    image, lung = paint_tissue(space, body, rngs["tissue"])
    paint_bones(space, body, image, rngs["bones"])

    step_mm = 0.5 * space.voxel_mm
    trees = grow_lung_vessels(space, body, lung, rngs["vessels"])
    branches = [tree_balls(tree, rngs["vessels"], step_mm) for sides in trees.values() for _, tree in sides]
    is_vessel = _paint_vessels(space, image, lung, *_joined(branches), body.blood_hu)
    is_airway = _paint_airways(space, image, *bronchi_balls(body, trees["artery"], step_mm))

    diameters_mm = planned_diameters_mm(seed, index)
    nodules, instances = place_nodules(space, lung, is_vessel | is_airway, diameters_mm, rngs["places"])
    paint_lookalikes(LungCanvas(space, image, lung, instances), body, rngs["lookalikes"])
    for nodule in nodules:
        paint_nodule(space, nodule, image, lung)
        _paint_vessels(space, image, lung, *spicule_balls(nodule, step_mm), nodule.shape.hu)

    image = point_spread(space, image, sigma_mm=0.45 * min(space.spacing_mm))
    rng = rngs["noise"]
    image += reconstruction_noise(
        space, rng, std_hu=rng.uniform(10, 26), kernel_mm=0.55 * space.spacing_mm[1], sharpness=rng.uniform(0.2, 0.8)
    )
    return PhantomCase(
        image=np.rint(np.clip(image, -1024, 3071)).astype(np.int16),
        instances=instances,
        diameters_mm=tuple(nodule.diameter_mm for nodule in nodules),
        lung=lung,
        grid=_grid(space, rngs["world"]),
    )


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([points for points, _ in parts]), np.concatenate([radii for _, radii in parts])


def _paint_vessels(
    space: Space, image: np.ndarray, lung: np.ndarray, points_mm: np.ndarray, radii_mm: np.ndarray, hu: float
) -> np.ndarray:
    """Paint tubes into the lung; returns their voxels."""
    if len(points_mm) == 0:
        return np.zeros(space.shape, dtype=bool)
    depth = tube_depth(space, points_mm, radii_mm)
    image += np.where(lung, coverage(space, depth), 0) * np.maximum(hu - image, 0)
    return depth > 0


def _paint_airways(space: Space, image: np.ndarray, points_mm: np.ndarray, radii_mm: np.ndarray) -> np.ndarray:
    """Paint tubes of air with a wall; returns their voxels."""
    depth = tube_depth(space, points_mm, radii_mm + BRONCHUS_WALL_MM)
    image += coverage(space, depth) * np.maximum(0 - image, 0)
    image += coverage(space, depth - BRONCHUS_WALL_MM) * (GAS_HU - image)
    return depth > 0


def _grid(space: Space, rng: np.random.Generator) -> Grid:
    """Return the scanner's world: the body's axes, and an origin that differs from scan to scan."""
    origin_xyz = np.round(np.array(space.first_mm)[::-1] + rng.uniform((-20, -180, -900), (20, 60, 100)), 1)
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = space.spacing_mm  # (d, h, w) run along (z, y, x)
    affine[:3, 3] = origin_xyz
    affine[3, 3] = 1
    return Grid(space.shape, affine)
