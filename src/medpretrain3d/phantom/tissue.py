"""Soft tissue, fat, air and lung: everything of a body that is neither bone nor finer than a centimetre."""

from __future__ import annotations

import numpy as np

from medpretrain3d.phantom.body import Body
from medpretrain3d.phantom.noise import smooth_field
from medpretrain3d.phantom.space import Space
from medpretrain3d.phantom.tubes import along, tube_depth

AIR_HU, FAT_HU, MUSCLE_HU, GAS_HU = -1000.0, -100.0, 50.0, -960.0
LIVER_HU, SPLEEN_HU, STOMACH_HU = 60.0, 50.0, 15.0


def paint_tissue(space: Space, body: Body, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the body without bones and lung vessels.

    Returns:
        HU (D, H, W) float32, and the lungs (D, H, W) bool.
    """
    z, y, x = space.coordinates()
    wobble = smooth_field(space, rng, 28.0)
    grain = smooth_field(space, rng, 9.0)
    cage = body.cage_radius(z, y, x) + 0.02 * wobble
    skin = _superellipse(y / body.half_depth_mm, x / body.half_width_mm)
    depth_mm = (1 - skin) * np.sqrt(x**2 + y**2) / np.maximum(skin, 1e-3)
    is_inside_cage = cage < 1
    is_chest = z > body.diaphragm_z_mm(y, x) + 4 * wobble

    image = np.where(skin < 1, np.float32(FAT_HU), np.float32(AIR_HU))  # (1, H, W): the skin is the same at all heights
    image = np.repeat(image, space.shape[0], axis=0)
    is_muscle = (depth_mm > body.fat_mm * (1 + 0.25 * wobble)) & (grain + 0.8 * wobble < 0.75)
    image[is_muscle | ((skin < 1) & (depth_mm < 1.8))] = MUSCLE_HU  # the skin is as dense as muscle
    image[is_inside_cage] = FAT_HU
    _paint_belly(space, body, image, is_inside_cage & ~is_chest, wobble)
    mediastinum = _mediastinum(body, z, y, x, wobble)
    _paint_mediastinum(space, body, image, mediastinum, is_inside_cage & is_chest)

    spine = np.sqrt((x / 25) ** 2 + ((y - body.spine_y_mm - 8) / 29) ** 2)
    lung = (cage < 0.985) & is_chest & (mediastinum > 1) & (spine > 1 + 0.06 * wobble)
    image[is_inside_cage & (spine < 1)] = MUSCLE_HU
    gravity = 28 * y / body.cage_half_depth_mm  # lying on the back, blood sinks: posterior lung is denser
    parenchyma = body.lung_hu + gravity + 14 * wobble + 16 * grain + 14 * smooth_field(space, rng, 5.0)
    image[lung] = parenchyma[lung]
    return image, lung


def _superellipse(y: np.ndarray, x: np.ndarray, power: float = 2.3) -> np.ndarray:
    result: np.ndarray = (np.abs(y) ** power + np.abs(x) ** power) ** (1 / power)
    return result


def _ellipsoid(body: Body, place: tuple[float, float, float], semi_axes: tuple[float, float, float],
               z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:  # fmt: skip
    """1 on the surface of an ellipsoid whose place and semi-axes (z, y, x) are relative to the rib cage."""
    center, semi = body.at(*place), body.at(*semi_axes)
    result: np.ndarray = np.sqrt(
        ((z - center[0]) / semi[0]) ** 2 + ((y - center[1]) / semi[1]) ** 2 + ((x - center[2]) / semi[2]) ** 2
    )
    return result


def _heart(body: Body, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """1 on the surface of the heart, whose apex points left and forward."""
    turn = np.deg2rad(38.0)
    center = body.at(0.27, -0.24, 0.13)
    along_x = (x - center[2]) * np.cos(turn) - (y - center[1]) * np.sin(turn)
    along_y = (x - center[2]) * np.sin(turn) + (y - center[1]) * np.cos(turn)
    semi = body.at(0.26, 0.56, 0.50)
    result: np.ndarray = np.sqrt(((z - center[0]) / semi[0]) ** 2 + (along_y / semi[1]) ** 2 + (along_x / semi[2]) ** 2)
    return result


def _mediastinum(body: Body, z: np.ndarray, y: np.ndarray, x: np.ndarray, wobble: np.ndarray) -> np.ndarray:
    """Below 1 between the lungs: heart, great vessels, and the thin septum in front of them."""
    rise = np.clip(z / body.lung_height_mm, 0, 1)
    half_width = (30 - 4 * rise) * (1 + 0.25 * wobble)
    column = np.sqrt(
        (x / half_width) ** 2 + ((y - 0.12 * body.cage_half_depth_mm) / (0.78 * body.cage_half_depth_mm)) ** 2
    )
    hila = _ellipsoid(body, (0.50, 0.10, 0.0), (0.13, 0.32, 0.36), z, y, x)
    septum = np.where(y < 0, np.abs(x - 4) / 3.0, 9.0)
    descending_aorta = np.sqrt((x - 24) ** 2 + (y - 0.60 * body.cage_half_depth_mm) ** 2) / 15
    descending_aorta = np.where(z < 0.72 * body.lung_height_mm, descending_aorta, 9.0)
    result: np.ndarray = np.minimum.reduce(
        [column, hila, septum + 0 * z, descending_aorta, _heart(body, z, y, x) * (1 + 0.04 * wobble)]
    )
    return result


def _paint_mediastinum(
    space: Space, body: Body, image: np.ndarray, mediastinum: np.ndarray, is_thorax: np.ndarray
) -> None:
    """Fat, heart in its fat, great vessels and gullet."""
    z, y, x = space.coordinates()
    image[is_thorax & (mediastinum < 1)] = FAT_HU + 10
    heart = _heart(body, z, y, x)
    image[is_thorax & (heart < 0.93)] = 0.75 * body.blood_hu + 20
    image[is_thorax & (_ellipsoid(body, (0.29, -0.22, 0.16), (0.17, 0.34, 0.30), z, y, x) < 1)] = body.blood_hu
    step = 0.6 * space.voxel_mm + 1
    vessels = [
        along(np.stack([body.at(-0.3, 0.60, 0.19), body.at(0.70, 0.60, 0.19)]), 11.5, step),  # descending aorta
        along(np.stack([body.at(0.70, 0.60, 0.19), body.at(0.77, 0.30, 0.12), body.at(0.74, -0.1, -0.02),
                        body.at(0.66, -0.25, -0.07), body.at(0.40, -0.20, 0.0)]), 13.0, step),  # arch, ascending aorta
        along(np.stack([body.at(0.35, -0.05, -0.20), body.at(0.90, -0.10, -0.15)]), 8.0, step),  # superior vena cava
        along(np.stack([body.at(0.42, -0.35, 0.10), body.at(0.54, 0.0, 0.10), body.at(0.54, 0.12, 0.30)]), 10.0, step),
        along(np.stack([body.at(0.54, 0.0, 0.08), body.at(0.54, 0.12, -0.30)]), 8.5, step),  # pulmonary arteries
        along(np.stack([body.at(0.43, 0.18, -0.24), body.at(0.43, 0.20, 0.24)]), 13.0, step),  # left atrium
        along(np.stack([body.at(0.75, -0.1, 0.02), body.at(1.1, 0.0, 0.10)]), 4.5, step),
        along(np.stack([body.at(0.75, 0.1, 0.10), body.at(1.1, 0.1, 0.20)]), 4.5, step),  # neck vessels
    ]  # fmt: skip
    depth = tube_depth(
        space, np.concatenate([points for points, _ in vessels]), np.concatenate([radii for _, radii in vessels])
    )
    image[(depth > 0) & (mediastinum < 1)] = body.blood_hu
    gullet, radii = along(np.stack([body.at(-0.2, 0.42, 0.08), body.at(1.1, 0.42, 0.02)]), 7.0, step)
    image[(tube_depth(space, gullet, radii) > 0) & is_thorax] = 40.0


def _paint_belly(space: Space, body: Body, image: np.ndarray, is_belly: np.ndarray, wobble: np.ndarray) -> None:
    """Liver on the right, spleen and stomach (with its bubble of gas) on the left, under the diaphragm."""
    z, y, x = space.coordinates()
    enhancement = 0.35 * (body.blood_hu - 40)
    is_liver = is_belly & (x + 0.35 * y < (0.16 + 0.1 * wobble) * body.cage_half_width_mm)
    image[is_liver] = LIVER_HU + enhancement
    spleen = _ellipsoid(body, (-0.02, 0.42, 0.66), (0.24, 0.40, 0.26), z, y, x)
    image[is_belly & (spleen < 1)] = SPLEEN_HU + enhancement
    stomach = _ellipsoid(body, (-0.04, -0.25, 0.46), (0.16, 0.42, 0.30), z, y, x)
    image[is_belly & (stomach < 1)] = MUSCLE_HU
    is_gas = y < -0.30 * body.cage_half_depth_mm  # lying on the back, gas is in front
    image[is_belly & (stomach < 0.88)] = STOMACH_HU
    image[is_belly & (stomach < 0.88) & is_gas] = GAS_HU
