"""One person's proportions, drawn at random, and the simple surfaces that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medpretrain3d.phantom.space import Space


@dataclass(frozen=True)
class Body:
    """Sizes in mm and densities in HU of one body; `draw` makes plausible adults."""

    half_width_mm: float
    half_depth_mm: float
    lung_height_mm: float
    fat_mm: float
    """Fat under the skin."""
    muscle_mm: float
    """Muscle and ribs between the fat and the inside of the rib cage."""
    blood_hu: float
    """Vessels and heart; high after contrast agent."""
    lung_hu: float

    @staticmethod
    def draw(rng: np.random.Generator) -> Body:
        """Return a random adult; half of them received contrast agent."""
        half_width = rng.uniform(142, 168)
        return Body(
            half_width_mm=half_width,
            half_depth_mm=half_width * rng.uniform(0.65, 0.73),
            lung_height_mm=rng.uniform(205, 245),
            fat_mm=rng.uniform(6, 18),
            muscle_mm=rng.uniform(13, 18),
            blood_hu=rng.uniform(80, 180) if rng.random() < 0.5 else rng.uniform(30, 50),
            lung_hu=rng.uniform(-885, -835),
        )

    @property
    def cage_half_width_mm(self) -> float:
        """Half the inner width of the rib cage where it is widest."""
        return self.half_width_mm - self.fat_mm - self.muscle_mm

    @property
    def cage_half_depth_mm(self) -> float:
        """Half the inner depth of the rib cage where it is widest."""
        return self.half_depth_mm - self.fat_mm - self.muscle_mm

    @property
    def spine_y_mm(self) -> float:
        """Center of the vertebral bodies along y, in mm."""
        return 0.80 * self.cage_half_depth_mm

    def at(self, z: float, y: float, x: float) -> np.ndarray:
        """A point (3,) in mm from relative coordinates: lung heights, half depths and half widths of the cage."""
        return np.array([z * self.lung_height_mm, y * self.cage_half_depth_mm, x * self.cage_half_width_mm])

    def cage_scale(self, z_mm: np.ndarray) -> np.ndarray:
        """Return width of the rib cage at a height, as a share of its greatest: narrows to 0 above the apex."""
        rise = np.clip((z_mm - 0.3 * self.lung_height_mm) / (0.72 * self.lung_height_mm), 0, 1)
        return np.sqrt(1 - rise**2.6)

    def cage_radius(self, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """0 on the body's axis, 1 on the inner surface of the rib cage, for coordinates in mm that broadcast."""
        scale = np.maximum(self.cage_scale(z), 1e-3)
        depth = np.where(y > 0, self.cage_half_depth_mm * (0.35 + 0.65 * scale), self.cage_half_depth_mm * scale)
        result: np.ndarray = np.sqrt((x / (self.cage_half_width_mm * scale)) ** 2 + (y / depth) ** 2)
        return result

    def diaphragm_z_mm(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return height of the two domes; the right one, over the liver, is the higher."""
        is_right = x < 0
        peak = np.where(is_right, 0.20, 0.15) * self.lung_height_mm
        aside = (np.abs(x) / self.cage_half_width_mm - 0.45) / 0.55
        behind = (y / self.cage_half_depth_mm + 0.10) / 1.05
        result: np.ndarray = peak - 0.27 * self.lung_height_mm * np.minimum(aside**2 + behind**2, 1.5)
        return result

    def space(self, rng: np.random.Generator, spacing_mm: float) -> Space:
        """Return a scanner's field of view around the body, its voxels near `spacing_mm`.

        In plane the spacing varies by a tenth, between slices by a quarter: at 2 mm 1.8-2.2 and 1.5-2.5 mm.
        """
        in_plane = round(spacing_mm * rng.uniform(0.9, 1.1), 3)
        spacing = (round(spacing_mm * rng.uniform(0.75, 1.25), 3), in_plane, in_plane)
        margins = rng.uniform(3, 12, size=(2, 2))
        low = (-rng.uniform(28, 45), -self.half_depth_mm - margins[0, 0], -self.half_width_mm - margins[1, 0])
        high = (
            self.lung_height_mm + rng.uniform(10, 22),
            self.half_depth_mm + margins[0, 1],
            self.half_width_mm + margins[1, 1],
        )
        shape = [int(np.ceil((end - start) / step)) for start, end, step in zip(low, high, spacing, strict=True)]
        return Space((shape[0], shape[1], shape[2]), spacing, (float(low[0]), float(low[1]), float(low[2])))
