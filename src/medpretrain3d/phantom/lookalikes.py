"""Nodule mimics, which a detector must not take for one: things of a nodule's brightness with another shape.

Stubs of vessels, bands of scar, fissures, thickened pleura and calcified granulomas below 3 mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medpretrain3d.phantom.body import Body
from medpretrain3d.phantom.space import Slices, Space
from medpretrain3d.phantom.tubes import along, coverage, tube_depth

NUM_STUBS, NUM_BANDS, NUM_PLEURAL, NUM_GRANULOMAS = (3, 8), (1, 5), (1, 5), (0, 5)
"""Least number and one more than the most, per case."""
HU_RANGE = (0.0, 110.0)
"""As of solid nodules."""


@dataclass(frozen=True)
class LungCanvas:
    """Lungs to paint into, in place, with the nodules left alone; all arrays are (D, H, W)."""

    space: Space
    image: np.ndarray
    lung: np.ndarray
    instances: np.ndarray

    def blend(self, slices: Slices, share: np.ndarray, hu: float) -> None:
        """Mix `hu` into the lung at `slices`, unless it would touch a nodule: then nothing is painted."""
        if (self.instances[slices][share > 0] > 0).any():
            return
        part = self.image[slices]
        part += np.where(self.lung[slices], share, 0) * np.maximum(hu - part, 0)


def paint_lookalikes(canvas: LungCanvas, body: Body, rng: np.random.Generator) -> None:
    """Paint a random number of each kind, clear of the nodules."""
    paint_fissures(canvas, body, rng)
    voxels = np.argwhere(canvas.lung)

    def somewhere() -> np.ndarray:
        return canvas.space.voxel_center_mm(voxels[rng.integers(len(voxels))])

    for _ in range(rng.integers(*NUM_STUBS)):
        paint_stub(canvas, somewhere(), rng)
    for _ in range(rng.integers(*NUM_BANDS)):
        paint_lens(canvas, somewhere(), _direction(rng), rng.uniform(8, 20), rng.uniform(1.6, 2.8), rng)
    for _ in range(rng.integers(*NUM_PLEURAL)):
        wall, normal = _pleura_beside(canvas, body, somewhere())
        paint_lens(canvas, wall, normal, rng.uniform(9, 18), rng.uniform(4, 7), rng)  # half of it lies in the wall
    for _ in range(rng.integers(*NUM_GRANULOMAS)):
        paint_granuloma(canvas, somewhere(), rng)


def paint_fissures(canvas: LungCanvas, body: Body, rng: np.random.Generator) -> None:
    """The oblique fissures of both lungs: warped sheets far thinner than a voxel."""
    z, y, x = canvas.space.coordinates()
    where = canvas.lung & (canvas.instances == 0)
    for side in (-1, 1):
        middle = rng.uniform(0.40, 0.48) * body.lung_height_mm
        slope = rng.uniform(0.95, 1.2)
        warp = 5 * np.sin(x / 21 + rng.uniform(0, 6)) * np.cos(y / 27 + rng.uniform(0, 6))
        distance_mm = np.abs(z - middle - slope * (y + warp)) / np.sqrt(1 + slope**2)
        share = 0.22 * np.clip(1 - distance_mm / (1.1 * canvas.space.voxel_mm), 0, 1)
        image = canvas.image
        image += np.where(where & (x * side > 0), share, 0) * (30 - image)


def paint_stub(canvas: LungCanvas, center_mm: np.ndarray, rng: np.random.Generator) -> None:
    """A short piece of a wide vessel, bent, at least four times as long as wide."""
    space = canvas.space
    radius_mm = rng.uniform(1.6, 3.2)
    half_mm = radius_mm * rng.uniform(4.0, 6.0)
    direction = _direction(rng)
    corners = center_mm + np.stack([-half_mm * direction, rng.normal(0, 0.15 * half_mm, 3), half_mm * direction])
    points, radii = along(corners, radius_mm * np.array([0.7, 1.0, 0.8]), 0.5 * space.voxel_mm)
    slices, _ = space.around(center_mm, half_mm + 2 * radius_mm + space.voxel_mm)
    depth = tube_depth(space.part(slices), points, radii)
    canvas.blend(slices, coverage(space, depth), rng.uniform(*HU_RANGE))


def paint_lens(
    canvas: LungCanvas,
    center_mm: np.ndarray,
    normal: np.ndarray,
    radius_mm: float,
    thickness_mm: float,
    rng: np.random.Generator,
) -> None:
    """A flat lens: a band of scar within the lung, or a thickening of the pleura where it lies against the wall."""
    slices, (z, y, x) = canvas.space.around(center_mm, radius_mm + canvas.space.voxel_mm)
    height = z * normal[0] + y * normal[1] + x * normal[2]
    aside = np.sqrt(np.maximum(z**2 + y**2 + x**2 - height**2, 0)) / radius_mm
    depth = 0.5 * thickness_mm * np.sqrt(np.maximum(1 - aside**2, 0)) - np.abs(height)
    canvas.blend(slices, np.where(aside < 1, coverage(canvas.space, depth), 0), rng.uniform(*HU_RANGE))


def paint_granuloma(canvas: LungCanvas, center_mm: np.ndarray, rng: np.random.Generator) -> None:
    """A calcified ball of less than 3 mm."""
    space = canvas.space
    radius_mm, hu = rng.uniform(0.9, 1.45), rng.uniform(250, 900)
    slices, (z, y, x) = space.around(center_mm, radius_mm + space.voxel_mm)
    # A ball smaller than a voxel fills a share of it: calcium then looks like soft tissue.
    fill = min(4 / 3 * np.pi * radius_mm**3 / space.voxel_mm**3, 1.0)
    canvas.blend(slices, fill * coverage(space, radius_mm - np.sqrt(z**2 + y**2 + x**2)), hu)


def _pleura_beside(canvas: LungCanvas, body: Body, start_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the place where the lung ends sidewards of `start_mm`, and the chest wall's normal there."""
    outward = np.array([0.0, start_mm[1] / body.cage_half_depth_mm**2, start_mm[2] / body.cage_half_width_mm**2])
    outward /= max(float(np.sqrt((outward**2).sum())), 1e-9)
    steps_mm = np.arange(0, 2 * body.cage_half_width_mm, 0.5 * canvas.space.voxel_mm)
    is_lung = canvas.space.is_inside(canvas.lung, start_mm + steps_mm[:, None] * outward)
    end = int(np.argmin(is_lung))  # the first step outside
    return start_mm + steps_mm[end] * outward, outward


def _direction(rng: np.random.Generator) -> np.ndarray:
    vector = rng.standard_normal(3)
    result: np.ndarray = vector / np.sqrt((vector**2).sum())
    return result
