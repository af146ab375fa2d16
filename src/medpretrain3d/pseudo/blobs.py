"""Lesion-like blobs pasted into a scan: the phantom's shapes, with a contrast to what is there and a texture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medpretrain3d.phantom.nodules import Nodule, NoduleShape, nodule_mask, nodule_room
from medpretrain3d.phantom.noise import smooth_field
from medpretrain3d.phantom.space import Space
from medpretrain3d.phantom.tubes import coverage
from medpretrain3d.pseudo.region import Region

TRIES = 50
CONTRAST = (0.15, 0.6)
"""Of a blob to its place, as a share of the standard deviation of the body's values; above or below."""
TEXTURE = 0.3
"""Amplitude of the texture, as a share of the contrast."""


def paste_blobs(
    image: np.ndarray,
    spacing_mm: Sequence[float],
    body: np.ndarray,
    num: int,
    diameter_mm: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[Region]]:
    """Return the image with blobs, and their regions; where none fits beside the others there are fewer.

    Args:
        image: (D, H, W) int16; stays as it is.
        spacing_mm: along (D, H, W).
        body: (D, H, W) bool, where blobs lie.
        num: how many.
        diameter_mm: smallest and largest; drawn evenly on a logarithmic scale.
        rng: source of randomness.
    """
    places = np.flatnonzero(body)
    painted, taken, regions = image.astype(np.float32), np.zeros(image.shape, dtype=bool), []
    if not len(places):
        return image, []
    d, h, w = image.shape
    space = Space((d, h, w), (spacing_mm[0], spacing_mm[1], spacing_mm[2]), (0.0, 0.0, 0.0))
    deviation = float(image.ravel()[places].std())
    for _ in range(num):
        shape = NoduleShape.draw(rng)
        size = float(np.exp(rng.uniform(*np.log(diameter_mm))))
        contrast = deviation * float(rng.uniform(*CONTRAST)) * (1 if rng.random() < 0.5 else -1)
        for place in rng.choice(places, TRIES):
            center = space.voxel_center_mm(np.array(np.unravel_index(place, image.shape)) + rng.uniform(-0.49, 0.49, 3))
            blob = Nodule(shape, size, center)
            slices, mask = nodule_mask(space, blob)
            room, offsets = nodule_room(space, blob)
            if body[slices][mask].all() and not taken[slices][mask].any():
                taken[slices] |= mask
                local = float(painted[slices][mask].mean())
                texture = TEXTURE * contrast * smooth_field(space.part(room), rng, max(size / 4, space.voxel_mm))
                share = coverage(space, shape.depth_mm(size, offsets))
                painted[room] += share * (local + contrast + texture - painted[room])
                regions.append(Region.of_mask("blob", mask, [axis.start for axis in slices]))
                break
    limits = np.iinfo(np.int16)
    return np.rint(painted).clip(max(limits.min, int(image.min())), limits.max).astype(np.int16), regions
