"""Random transforms of crops. Each one draws its parameters first and applies them second."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medpretrain3d.description import Described

Patch = tuple[int, int, int]


@dataclass(frozen=True)
class Placement:
    """Where the voxels of a patch come from: patch offset `o` from its centre is read at `matrix @ o` in the volume."""

    matrix: np.ndarray
    """(3, 3) float64 along (D, H, W); the identity reads the crop as it stands."""
    flips: tuple[int, ...] = ()
    """Axes mirrored afterwards (0 = D, 1 = H, 2 = W)."""

    @property
    def is_plain(self) -> bool:
        """Whether nothing has to be interpolated."""
        return bool(np.array_equal(self.matrix, np.eye(3)))

    @property
    def is_rotated(self) -> bool:
        """Whether axes are mixed; without that, boxes are carried exactly."""
        return bool(np.any(self.matrix - np.diag(np.diag(self.matrix))))

    def source_size(self, patch: Patch) -> Patch:
        """Size (D, H, W) of the crop to read so that the whole patch is covered, interpolation margin included."""
        if self.is_plain:
            return patch
        half = np.abs(self.matrix) @ (np.array(patch) / 2)
        d, h, w = (int(2 * np.ceil(extent) + 2) for extent in half)
        # Odd patches keep their centre on a voxel, so the crop has the same parity as the patch.
        return (d + patch[0] % 2, h + patch[1] % 2, w + patch[2] % 2)


class SpatialAugment(Described):
    """Rotation, isotropic zoom and mirroring, drawn as nnU-Net's recipe does.

    Args:
        rotation_deg: largest angle about each axis.
        rotation_p: probability of a rotation.
        zoom: smallest and largest magnification.
        zoom_p: probability of a zoom.
        mirror_axes: axes that may be mirrored, each with probability 0.5. Leave out the left-right axis (2) when left
            and right are different classes.
    """

    def __init__(
        self,
        rotation_deg: float = 30.0,
        rotation_p: float = 0.2,
        zoom: tuple[float, float] = (0.7, 1.4),
        zoom_p: float = 0.2,
        mirror_axes: tuple[int, ...] = (0, 1, 2),
    ) -> None:
        self.rotation_deg = rotation_deg
        self.rotation_p = rotation_p
        self.zoom = zoom
        self.zoom_p = zoom_p
        self.mirror_axes = mirror_axes

    def draw(self, random: np.random.Generator) -> Placement:
        """One random placement."""
        matrix = np.eye(3)
        if random.random() < self.rotation_p:
            matrix = _rotation(np.deg2rad(random.uniform(-self.rotation_deg, self.rotation_deg, size=3)))
        if random.random() < self.zoom_p:
            matrix = matrix / random.uniform(*self.zoom)
        flips = tuple(axis for axis in self.mirror_axes if random.random() < 0.5)
        return Placement(matrix, flips)


class IntensityAugment(Described):
    """Noise, blur, brightness, contrast and gamma with the probabilities of the nnDetection recipe.

    Works on images in [-1, 1]; the published standard deviations are for images of unit variance, which a CT window
    comes close to.

    Args:
        noise_p: additive Gaussian noise, variance up to 0.1.
        blur_p: Gaussian blur, 0.5 to 1 voxel.
        brightness_p: factor 0.75 to 1.25.
        contrast_p: factor 0.75 to 1.25 about the mean, range kept.
        gamma_p: exponent 0.7 to 1.5 on the range of the crop, mean and deviation kept.
        inverted_gamma_p: the same on the negative.
    """

    def __init__(
        self,
        noise_p: float = 0.1,
        blur_p: float = 0.2,
        brightness_p: float = 0.15,
        contrast_p: float = 0.15,
        gamma_p: float = 0.3,
        inverted_gamma_p: float = 0.1,
    ) -> None:
        self.noise_p = noise_p
        self.blur_p = blur_p
        self.brightness_p = brightness_p
        self.contrast_p = contrast_p
        self.gamma_p = gamma_p
        self.inverted_gamma_p = inverted_gamma_p

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """A changed copy of an image (C, D, H, W) float32."""
        from scipy.ndimage import gaussian_filter

        image = image.copy()
        if random.random() < self.noise_p:
            deviation = np.sqrt(random.uniform(0, 0.1))
            image += deviation * random.standard_normal(image.shape, dtype=np.float32)
        if random.random() < self.blur_p:
            sigma = random.uniform(0.5, 1.0)
            image = np.stack([gaussian_filter(channel, sigma) for channel in image])
        if random.random() < self.brightness_p:
            image *= np.float32(random.uniform(0.75, 1.25))
        if random.random() < self.contrast_p:
            mean, low, high = image.mean(), image.min(), image.max()
            image = np.clip((image - mean) * np.float32(random.uniform(0.75, 1.25)) + mean, low, high)
        if random.random() < self.inverted_gamma_p:
            image = -_gamma(-image, random.uniform(0.7, 1.5))
        if random.random() < self.gamma_p:
            image = _gamma(image, random.uniform(0.7, 1.5))
        return image


def place(crop: np.ndarray, placement: Placement, patch: Patch, nearest: bool = False) -> np.ndarray:
    """Carry a crop (C, d, h, w), read with `placement.source_size(patch)`, to the patch (C, D, H, W).

    Args:
        crop: the source voxels; its centre is the patch's centre.
        placement: what was drawn.
        patch: size of the result in voxels.
        nearest: for labels; images are interpolated linearly.
    """
    if not placement.is_plain:
        grid = _sampling_grid(placement.matrix, patch, crop.shape[1:])
        source = torch.from_numpy(np.ascontiguousarray(crop, dtype=np.float32))[None]
        mode = "nearest" if nearest else "bilinear"
        placed = F.grid_sample(source, grid, mode=mode, padding_mode="border", align_corners=False)
        crop = placed[0].numpy().astype(crop.dtype)
    if placement.flips:
        crop = np.flip(crop, tuple(axis + 1 for axis in placement.flips))
    return np.ascontiguousarray(crop)


def place_boxes(boxes: np.ndarray, placement: Placement, patch: Patch, source_size: Patch) -> np.ndarray:
    """Carry boxes (N, 6), in voxels of the source crop, to the patch.

    A rotated box becomes the hull of the ellipsoid inscribed in it: exact for flips and zooms, and for rotations far
    tighter than the hull of the eight corners, which grows a round lesion by up to 73 %.
    """
    centre = (boxes[:, :3] + boxes[:, 3:]) / 2 - np.array(source_size) / 2
    half = (boxes[:, 3:] - boxes[:, :3]) / 2
    to_patch = np.linalg.inv(placement.matrix)
    centre = centre @ to_patch.T
    half = np.sqrt(np.square(half) @ np.square(to_patch).T)
    for axis in placement.flips:
        centre[:, axis] = -centre[:, axis]
    centre += np.array(patch) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def _sampling_grid(matrix: np.ndarray, patch: Patch, source_size: tuple[int, ...]) -> Tensor:
    # grid_sample wants (w, h, d) in [-1, 1] with -1 and 1 at the outer faces of the crop; build it from offsets along
    # (d, h, w), so that the reversal happens in one place.
    scale = 2.0 / np.array(source_size)  # voxels to [-1, 1]
    theta = (np.diag(scale) @ matrix @ np.diag(np.array(patch) / 2.0))[::-1, ::-1]
    affine = torch.from_numpy(np.concatenate([theta, np.zeros((3, 1))], axis=1).astype(np.float32))
    return F.affine_grid(affine[None], [1, 1, *patch], align_corners=False)


def _rotation(angles: np.ndarray) -> np.ndarray:
    (cd, ch, cw), (sd, sh, sw) = np.cos(angles), np.sin(angles)
    about_d = np.array([[1, 0, 0], [0, cd, -sd], [0, sd, cd]])
    about_h = np.array([[ch, 0, sh], [0, 1, 0], [-sh, 0, ch]])
    about_w = np.array([[cw, -sw, 0], [sw, cw, 0], [0, 0, 1]])
    return about_d @ about_h @ about_w


def _gamma(image: np.ndarray, exponent: float) -> np.ndarray:
    mean, deviation, low = image.mean(), image.std(), image.min()
    span = max(float(image.max() - low), 1e-7)
    curved = np.power((image - low) / span, np.float32(exponent)) * span + low
    return (curved - curved.mean()) / max(float(curved.std()), 1e-7) * deviation + mean
