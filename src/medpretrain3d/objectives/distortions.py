"""The distortions of Models Genesis (Zhou et al., 2021), each a function of one image (C, D, H, W) and its draws.

Images are in [-1, 1]; the paper's [0, 1] is `(image + 1) / 2`. Nothing is clamped: what an augmentation has pushed out
of the window stays outside.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medpretrain3d.objectives.counter_rng import CounterRNG
from medpretrain3d.objectives.cuboids import Triple, random_cuboid, random_cuboids

MAX_FLIPS = 3
MAX_PAINTED = 5
ONE_MORE_P = 0.95
MARGIN = 3
"""Voxels between a painted cuboid and the faces of the patch."""


def random_flips(image: Tensor, draws: CounterRNG, probability: float) -> Tensor:
    """Mirror along a random axis, again and again while `probability` says so, three times at most."""
    for _ in range(MAX_FLIPS):
        if not draws.bernoulli(probability):
            break
        image = image.flip(draws.integer(1, 3))
    return image


def local_shuffle(image: Tensor, draws: CounterRNG, num_blocks: int) -> Tensor:
    """Permute the voxels inside small blocks, of up to a tenth of the patch along each axis and two voxels at least.

    Blocks overlap: each permutes the voxels of the original, and the last one to reach a voxel decides. Where voxels
    come from is found on the CPU, so that it is the same on every device.
    """
    from medpretrain3d.objectives.shuffle_kernel import shuffled_index  # numba takes a second to import

    d, h, w = image.shape[1:]
    edges = [max(min(2, size), size // 10) for size in (d, h, w)]
    corners, sizes = random_cuboids(draws, num_blocks, (d, h, w), (1, 1, 1), (edges[0], edges[1], edges[2]))
    index = shuffled_index(corners, sizes, draws.bits(num_blocks).view(np.uint64), np.array([d, h, w]))
    source = torch.from_numpy(index).to(image.device, non_blocking=True)
    return image.flatten(1)[:, source].reshape(image.shape)


def bezier_curve(controls: Tensor, is_rising: bool, num_points: int = 1024) -> Tensor:
    """Return values (num_points,) of a monotone map of [0, 1] onto itself at evenly spaced intensities.

    The cubic Bezier curve from (0, 0) over two control points to (1, 1), or its mirror image, from (0, 1) to (1, 0).

    Args:
        controls: (2, 2), the points' intensities before and after, in [0, 1].
        is_rising: whether brighter stays brighter.
        num_points: 1024 points are 2 HU apart in a window of 2048 HU.
    """
    controls = controls.double()
    t = torch.linspace(0, 1, num_points, dtype=torch.float64, device=controls.device)
    first, second = 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t)
    # Control points in the unit square leave no room for a turn: both coordinates grow with t.
    x, y = (first * a + second * b + t**3 for a, b in controls.T)
    after = y if is_rising else y.flip(0)
    right = torch.searchsorted(x, t).clamp(1, num_points - 1)
    left = right - 1
    share = ((t - x[left]) / (x[right] - x[left]).clamp(min=1e-12)).clamp(0, 1)
    return torch.lerp(after[left], after[right], share).float()


def apply_curve(image: Tensor, curve: Tensor) -> Tensor:
    """Map intensities by a curve over [0, 1]; beyond the window a step of intensity stays a step of the same size."""
    intensity = (image.float() + 1) / 2
    inside = intensity.clamp(0, 1)
    place = inside * (len(curve) - 1)
    left = place.long().clamp(max=len(curve) - 2)
    mapped = torch.lerp(curve[left], curve[left + 1], place - left)
    direction = torch.sign(curve[-1] - curve[0])
    return 2 * (mapped + direction * (intensity - inside)) - 1


def in_paint(image: Tensor, draws: CounterRNG) -> Tensor:
    """Return uniform noise in up to five cuboids, each edge a sixth to a third of the patch."""
    d, h, w = image.shape[1:]
    smallest, largest = _shares((d, h, w), 1 / 6), _shares((d, h, w), 1 / 3)
    painted = image.clone()
    for _ in range(MAX_PAINTED):
        if not draws.bernoulli(ONE_MORE_P):
            break
        region = painted[:, *random_cuboid(draws, (d, h, w), smallest, largest, MARGIN)]
        region.copy_(_noise(draws, region))
    return painted


def out_paint(image: Tensor, draws: CounterRNG) -> Tensor:
    """Return uniform noise everywhere but in one to five cuboids, each edge three to four sevenths of the patch."""
    d, h, w = image.shape[1:]
    smallest, largest = _shares((d, h, w), 3 / 7), _shares((d, h, w), 4 / 7)
    painted = _noise(draws, image)
    for index in range(MAX_PAINTED):
        if index and not draws.bernoulli(ONE_MORE_P):
            break
        kept = random_cuboid(draws, (d, h, w), smallest, largest, MARGIN)
        painted[:, *kept] = image[:, *kept]
    return painted


def _noise(draws: CounterRNG, like: Tensor) -> Tensor:
    return (2 * draws.noise(like.shape, like.device) - 1).to(like.dtype)


def _shares(patch: Triple, share: float) -> Triple:
    d, h, w = (max(1, int(size * share)) for size in patch)
    return (d, h, w)
