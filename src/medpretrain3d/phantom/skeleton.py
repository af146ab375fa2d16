"""Bones: ribs, vertebrae, breastbone, shoulder blades and collar bones."""

from __future__ import annotations

import numpy as np

from medpretrain3d.phantom.body import Body
from medpretrain3d.phantom.space import Space
from medpretrain3d.phantom.tubes import along, coverage, tube_depth

NUM_RIB_PAIRS = 12
RIB_RADIUS_MM = 4.6
CORTEX_MM = 1.8
CORTEX_HU, MARROW_HU, CARTILAGE_HU, DISC_HU = 750.0, 220.0, 110.0, 80.0
VERTEBRA_MM = 23.0


def paint_bones(space: Space, body: Body, image: np.ndarray, rng: np.random.Generator) -> None:
    """Paint all bones into `image` (D, H, W) in place."""
    _paint_spine(space, body, image, phase=float(rng.random()))
    _paint_plates(space, body, image)
    bones, cartilage = _rib_balls(space, body, rng)
    _paint_tubes(space, image, *cartilage, shell_hu=CARTILAGE_HU, core_hu=CARTILAGE_HU)
    _paint_tubes(space, image, *bones, shell_hu=CORTEX_HU, core_hu=MARROW_HU)


def _rib_balls(
    space: Space, body: Body, rng: np.random.Generator
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return balls of all ribs and collar bones, and balls of their cartilage."""
    bones, cartilage = [], []
    angle = np.linspace(0.10, 0.90, 60) * np.pi  # from the spine round to the breastbone
    for pair in range(NUM_RIB_PAIRS):
        for side in (-1, 1):
            drop = rng.uniform(52, 62) * (1 - np.cos(angle)) / 2 + 10 * np.sin(angle)
            z = body.lung_height_mm * (0.98 - pair / 10.2) + rng.normal(0, 1.0) - drop
            scale = body.cage_scale(z)
            depth = np.where(angle < np.pi / 2, 0.35 + 0.65 * scale, scale) * body.cage_half_depth_mm
            x = side * (body.cage_half_width_mm * scale + 1.1 * RIB_RADIUS_MM) * np.sin(angle)
            y = (depth + 1.1 * RIB_RADIUS_MM) * np.cos(angle)
            path = np.stack([z, y, x], axis=1)
            last = 33 if pair == NUM_RIB_PAIRS - 1 else 43
            bones.append(along(path[:last], RIB_RADIUS_MM, 0.6 * space.voxel_mm + 1))
            if pair < 7:
                cartilage.append(along(path[last:], RIB_RADIUS_MM, 0.6 * space.voxel_mm + 1))
    for side in (-1, 1):
        collar = np.stack([body.at(0.93, -0.62, 0.12), body.at(0.99, -0.50, 0.5), body.at(1.02, -0.2, 0.95)])
        bones.append(along(collar * (1, 1, side), 5.5, 0.6 * space.voxel_mm + 1))
    return _joined(bones), _joined(cartilage)


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([points for points, _ in parts]), np.concatenate([radii for _, radii in parts])


def _paint_tubes(
    space: Space, image: np.ndarray, points_mm: np.ndarray, radii_mm: np.ndarray, shell_hu: float, core_hu: float
) -> None:
    depth = tube_depth(space, points_mm, radii_mm)
    inside = depth > -0.5 * space.voxel_mm
    share = coverage(space, depth[inside])
    core = coverage(space, depth[inside] - CORTEX_MM)
    image[inside] += share * (shell_hu + core * (core_hu - shell_hu) - image[inside])


def _paint_spine(space: Space, body: Body, image: np.ndarray, phase: float) -> None:
    """Vertebral bodies with discs, canal, arch, transverse and spinous processes."""
    slices, (_, y, x) = space.around(np.array([0.0, body.spine_y_mm, 0.0]), 62.0)
    z = space.coordinates()[0]
    part = image[:, slices[1], slices[2]]
    in_unit = (z / VERTEBRA_MM + phase) % 1  # place within vertebra plus disc, 0 to 1
    is_bone = in_unit < 0.78
    radius = np.sqrt((x / 17) ** 2 + ((y + 1) / 14) ** 2)
    body_hu = np.where(is_bone, np.where((radius > 0.88) | (in_unit < 0.08) | (in_unit > 0.70), 420, 190), DISC_HU)
    skin = body.half_depth_mm - body.fat_mm - body.spine_y_mm
    arch = np.sqrt(x**2 + (y - 21) ** 2)
    is_process = (in_unit > 0.25) & (in_unit < 0.65)
    transverse = is_process & (np.abs(y - 19 - 0.15 * np.abs(x)) < 4) & (np.abs(x) < 30)
    spinous = (in_unit < 0.75) & (np.abs(x) < 2.8) & (y > 29) & (y < skin - 4)
    part[:] = np.where(((arch < 12.5) & is_bone) | transverse | spinous, 430, part)
    part[:] = np.where(arch + 0 * z < 9.0, 25, part)
    part[:] = np.where(radius + 0 * z < 1.0, body_hu, part)


def _paint_plates(space: Space, body: Body, image: np.ndarray) -> None:
    """Breastbone and shoulder blades: flat bones just outside the rib cage."""
    z, y, x = space.coordinates()
    height = body.lung_height_mm
    outside_mm = (body.cage_radius(z, y, x) - 1) * body.cage_half_depth_mm * np.maximum(body.cage_scale(z), 0.3)
    section = np.sqrt((x / 18) ** 2 + ((outside_mm - 7) / 5.5) ** 2)
    breastbone = (section < 1) & (y < 0) & (z > 0.30 * height) & (z < 0.88 * height)
    image[breastbone] = np.where(section[breastbone] > 0.75, 420, 200)
    angle = np.arctan2(np.abs(x), y)
    blade = (np.abs(outside_mm - 17 - 6 * (angle - 0.9)) < 2.6) & (np.abs(angle - 0.85) < 0.38)
    image[blade & (z > 0.45 * height) & (z < 0.93 * height)] = 430
