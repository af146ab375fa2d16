"""Random changes of crops. Each one is drawn first, as plain parameters, and applied second, on any device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from medpretrain3d.configurable import Configurable
from medpretrain3d.errors import UserError
from medpretrain3d.loading.spatial_transform import SpatialTransform
from medpretrain3d.values import Axis, NonNegative, Positive, Positives, Share

NODES = 7
"""Nodes of the elastic lattice along each axis."""
MOST_ELASTIC = 1 / 6
"""With displacements below this share of the nodes' distance, slopes add up to less than 1 and nothing folds."""


class SpatialAugment(Configurable):
    """Rotation, isotropic zoom, elastic deformation and mirroring, drawn as nnU-Net's recipe does.

    Rotations are rigid in millimetres, also where voxels are no cubes.

    Args:
        rotation_deg: largest angle about each axis.
        rotation_p: probability of a rotation.
        zoom: smallest and largest magnification.
        zoom_p: probability of a zoom.
        mirror_axes: axes that may be mirrored, each with probability 0.5. Leave out the left-right axis (2) when left
            and right are different classes.
        elastic: largest displacement of a node of a 7 x 7 x 7 lattice, as a share of the nodes' distance.
        elastic_p: probability of an elastic deformation; the published recipes use none.
        in_plane_beyond: where the longest edge of a voxel is more than this times the shortest one, rotation and zoom
            stay in the plane across it, so that slices are not mixed.

    Raises:
        UserError: `elastic` of 1/6 or more, which could fold.
    """

    def __init__(
        self,
        rotation_deg: Annotated[float, Ge(0), Le(180)] = 30.0,
        rotation_p: Share = 0.2,
        zoom: Positives = (0.7, 1.4),
        zoom_p: Share = 0.2,
        mirror_axes: tuple[Axis, ...] = (0, 1, 2),
        elastic: NonNegative = 0.15,
        elastic_p: Share = 0.0,
        in_plane_beyond: Positive = 3.0,
    ) -> None:
        if not 0 <= elastic < MOST_ELASTIC:
            raise UserError(f"elastic {elastic}: wanted a share from 0 to below 1/6; more could fold tissue over")
        self.rotation_deg = rotation_deg
        self.rotation_p = rotation_p
        self.zoom = zoom
        self.zoom_p = zoom_p
        self.mirror_axes = mirror_axes
        self.elastic = elastic
        self.elastic_p = elastic_p
        self.in_plane_beyond = in_plane_beyond

    def draw(self, random: np.random.Generator, spacing_mm: tuple[float, float, float] = (1, 1, 1)) -> SpatialTransform:
        """Return one random spatial transform for voxels of these edges (D, H, W)."""
        edges_mm = np.array(spacing_mm, dtype=np.float64)
        across = np.arange(3) == edges_mm.argmax()
        stays_in_plane = edges_mm.max() / edges_mm.min() > self.in_plane_beyond
        matrix = np.eye(3)
        if random.random() < self.rotation_p:
            angles = random.uniform(-self.rotation_deg, self.rotation_deg, size=3)
            rotation = rotation_matrix(np.deg2rad(np.where(across | (not stays_in_plane), angles, 0)))
            matrix = rotation * edges_mm / edges_mm[:, None]  # voxels to mm, turn, mm to voxels
        if random.random() < self.zoom_p:
            matrix = matrix * np.where(across & stays_in_plane, 1, 1 / random.uniform(*self.zoom))
        flips = tuple(axis for axis in self.mirror_axes if random.random() < 0.5)
        elastic = None
        if self.elastic_p and random.random() < self.elastic_p:
            elastic = random.uniform(-self.elastic, self.elastic, size=(3, NODES, NODES, NODES))
            elastic[across & stays_in_plane] = 0
        return SpatialTransform(matrix, flips, elastic)


@dataclass(frozen=True)
class IntensityChange:
    """Intensity augmentation of one crop, in the order of the fields; None and 1 leave the intensities alone.

    Each channel is changed by its own mean, range and deviation, as nnU-Net does: those of CT and PET differ.
    """

    noise: tuple[float, int] | None = None
    """Standard deviation and seed of additive Gaussian noise."""
    blur_sigma_vox: float | None = None
    brightness: float = 1.0
    contrast: float = 1.0
    low_resolution: float | None = None
    """Size of a coarser grid, as a share of the crop's, that the crop is taken to and back from."""
    inverted_gamma: float = 1.0
    gamma: float = 1.0

    def __call__(self, image: Tensor) -> Tensor:
        """Return a changed copy of an image (C, D, H, W) float32; the same image where nothing was drawn."""
        if self.noise is not None:
            deviation, seed = self.noise
            generator = torch.Generator(image.device).manual_seed(seed)
            image = torch.randn(image.shape, generator=generator, device=image.device).mul_(deviation).add_(image)
        if self.blur_sigma_vox is not None:
            image = _along_axes(image, [_blur_matrix(size, self.blur_sigma_vox) for size in image.shape[1:]])
        if self.brightness != 1:
            image = image * self.brightness
        if self.contrast != 1:
            image = torch.stack([_with_contrast(channel, self.contrast) for channel in image])
        if self.low_resolution is not None:
            image = _along_axes(image, [_coarse_matrix(size, self.low_resolution) for size in image.shape[1:]])
        if self.inverted_gamma != 1:
            image = torch.stack([_gamma(-channel, self.inverted_gamma).neg_() for channel in image])
        if self.gamma != 1:
            image = torch.stack([_gamma(channel, self.gamma) for channel in image])
        return image


class IntensityAugment(Configurable):
    """Noise, blur, brightness, contrast and gamma with the probabilities of the nnDetection recipe.

    Works on images in [-1, 1]; the published standard deviations are for images of unit variance, which a CT window
    comes close to. nnU-Net's recipe adds `low_resolution_p: 0.25`.

    Args:
        noise_p: additive Gaussian noise, variance up to 0.1.
        blur_p: Gaussian blur, 0.5 to 1 voxel.
        brightness_p: factor 0.75 to 1.25.
        contrast_p: factor 0.75 to 1.25 about the mean of each channel, its range kept.
        low_resolution_p: the nearest voxels of a grid of 0.5 to 1 times the size, brought back linearly.
        gamma_p: exponent 0.7 to 1.5 on the range of each channel of the crop, its mean and deviation kept.
        inverted_gamma_p: the same on the negative.
    """

    def __init__(
        self,
        noise_p: Share = 0.1,
        blur_p: Share = 0.2,
        brightness_p: Share = 0.15,
        contrast_p: Share = 0.15,
        low_resolution_p: Share = 0.0,
        gamma_p: Share = 0.3,
        inverted_gamma_p: Share = 0.1,
    ) -> None:
        self.noise_p = noise_p
        self.blur_p = blur_p
        self.brightness_p = brightness_p
        self.contrast_p = contrast_p
        self.low_resolution_p = low_resolution_p
        self.gamma_p = gamma_p
        self.inverted_gamma_p = inverted_gamma_p

    def draw(self, random: np.random.Generator) -> IntensityChange:
        """Return one random change."""

        def bernoulli(probability: float) -> bool:
            return bool(random.random() < probability)

        noise = (
            (float(np.sqrt(random.uniform(0, 0.1))), int(random.integers(2**62))) if bernoulli(self.noise_p) else None
        )
        return IntensityChange(
            noise,
            blur_sigma_vox=random.uniform(0.5, 1.0) if bernoulli(self.blur_p) else None,
            brightness=random.uniform(0.75, 1.25) if bernoulli(self.brightness_p) else 1.0,
            contrast=random.uniform(0.75, 1.25) if bernoulli(self.contrast_p) else 1.0,
            low_resolution=random.uniform(0.5, 1.0) if bernoulli(self.low_resolution_p) else None,
            inverted_gamma=random.uniform(0.7, 1.5) if bernoulli(self.inverted_gamma_p) else 1.0,
            gamma=random.uniform(0.7, 1.5) if bernoulli(self.gamma_p) else 1.0,
        )


def rotation_matrix(angles_rad: np.ndarray) -> np.ndarray:
    """Return (3, 3): about D, then H, then W, applied from the right."""
    (cd, ch, cw), (sd, sh, sw) = np.cos(angles_rad), np.sin(angles_rad)
    about_d = np.array([[1, 0, 0], [0, cd, -sd], [0, sd, cd]])
    about_h = np.array([[ch, 0, sh], [0, 1, 0], [-sh, 0, ch]])
    about_w = np.array([[cw, -sw, 0], [sw, cw, 0], [0, 0, 1]])
    result: np.ndarray = about_d @ about_h @ about_w
    return result


def _along_axes(image: Tensor, matrices: list[np.ndarray]) -> Tensor:
    """Return an image (C, D, H, W) with a matrix (n, n) applied along each of D, H and W."""
    # A separable filter as three matrix products runs on any device, and serves blurring and coarse grids alike.
    sent = (torch.from_numpy(matrix).to(image.device, image.dtype, non_blocking=True) for matrix in matrices)
    along_d, along_h, along_w = sent
    image = image @ along_w.T
    image = along_h @ image
    return (along_d @ image.flatten(2)).view(image.shape)


def _blur_matrix(size: int, sigma_vox: float) -> np.ndarray:
    """Return (size, size): Gaussian weights within 4 sigma, summing to 1 in each row also at the border."""
    distance = np.arange(size)[:, None] - np.arange(size)
    weights = np.exp(-(distance**2) / (2 * sigma_vox**2)) * (np.abs(distance) <= 4 * sigma_vox + 0.5)
    result: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return result


def _coarse_matrix(size: int, share: float) -> np.ndarray:
    """(size, size): nearest voxels of a coarser grid, then linear interpolation back; both cover the same length."""
    coarse = max(round(size * share), 1)
    nearest = np.minimum(((np.arange(coarse) + 0.5) * size / coarse).astype(int), size - 1)
    place = ((np.arange(size) + 0.5) * coarse / size - 0.5).clip(0, coarse - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, coarse - 1)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size), nearest[low]), 1 - (place - low))
    np.add.at(matrix, (np.arange(size), nearest[high]), place - low)
    return matrix


def _with_contrast(channel: Tensor, factor: float) -> Tensor:
    """Return a channel (D, H, W) multiplied about its mean, within the range that it had."""
    mean, (low, high) = channel.mean(), channel.aminmax()
    return (channel - mean).mul_(factor).add_(mean).clamp_(low, high)


def _gamma(channel: Tensor, exponent: float) -> Tensor:
    """Return a channel (D, H, W) raised to an exponent on its range, with the mean and deviation that it had."""
    mean, (low, high) = channel.mean(), channel.aminmax()
    deviation = _root_mean_square(channel - mean)
    # The curve stays in [0, 1]: its own scale goes out with its deviation.
    curved = (channel - low).div_((high - low).clamp(min=1e-7)).pow_(exponent)
    curved.sub_(curved.mean())
    return curved.mul_(deviation / _root_mean_square(curved).clamp(min=1e-7)).add_(mean)


def _root_mean_square(centered: Tensor) -> Tensor:
    """Return the deviation of an image whose mean is 0."""
    # torch.std_mean takes one voxel after the other, 15 times as long (CPU time at 160^3, one thread); a norm over all
    # voxels at once adds them up in fp32 and is wrong by 1e-3, that of the rows' norms by 1e-7.
    rows = torch.linalg.vector_norm(centered, dim=-1)
    norm: Tensor = torch.linalg.vector_norm(rows)
    return norm / math.sqrt(centered.numel())
