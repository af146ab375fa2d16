"""Random fields: smooth ones that vary anatomy and texture, and the noise of a reconstructed CT."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d

from medpretrain3d.phantom.space import Space


def smooth_field(space: Space, rng: np.random.Generator, length_mm: float) -> np.ndarray:
    """Smooth noise between about -1 and 1 that changes over `length_mm`: (D, H, W) float32.

    Uniform values on a coarse lattice, interpolated with the raised cosine, one axis at a time.
    """
    extents = [size * step for size, step in zip(space.shape, space.spacing_mm, strict=True)]
    lattice = [max(int(np.ceil(extent / length_mm)) + 1, 2) for extent in extents]
    field = rng.uniform(-1, 1, lattice).astype(np.float32)
    for axis, (size, step) in enumerate(zip(space.shape, space.spacing_mm, strict=True)):
        place = np.arange(size) * step / length_mm
        low = np.minimum(place.astype(np.int64), lattice[axis] - 2)
        weight = (0.5 - 0.5 * np.cos(np.pi * np.minimum(place - low, 1.0))).astype(np.float32)
        weight = weight.reshape([-1 if other == axis else 1 for other in range(3)])
        start = np.take(field, low, axis=axis)
        field = start + weight * (np.take(field, low + 1, axis=axis) - start)
    return field


def reconstruction_noise(
    space: Space, rng: np.random.Generator, std_hu: float, kernel_mm: float, sharpness: float
) -> np.ndarray:
    """Noise as filtered back-projection leaves it: correlated over `kernel_mm`, with less power at low frequencies.

    White noise minus `sharpness` times its wider blur, in the axial plane; along the patient only smoothed.

    Args:
        space: where.
        rng: source of randomness.
        std_hu: standard deviation of the result.
        kernel_mm: standard deviation of the Gaussian that correlates neighbours.
        sharpness: 0 for a soft kernel; towards 1 the noise becomes grainy.
    """
    field = rng.standard_normal(space.shape, dtype=np.float32)
    for axis, step in enumerate(space.spacing_mm):
        field = gaussian_filter1d(field, kernel_mm / step, axis=axis, mode="nearest")
    wide = field
    for axis in (1, 2):
        wide = gaussian_filter1d(wide, 2 * kernel_mm / space.spacing_mm[axis], axis=axis, mode="nearest")
    field -= np.float32(sharpness) * wide
    return field * np.float32(std_hu / field.std(dtype=np.float64))


def point_spread(space: Space, image: np.ndarray, sigma_mm: float) -> np.ndarray:
    """Return the image (D, H, W) float32 as a scanner of limited resolution sees it: a Gaussian blur."""
    for axis, step in enumerate(space.spacing_mm):
        image = gaussian_filter1d(image, sigma_mm / step, axis=axis, mode="nearest")
    return image
