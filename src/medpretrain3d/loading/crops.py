"""Crops between the store and the network: what was read, and what is still to be done to it.

A worker reads a source crop and draws every random parameter. The rest, a pure function of both, happens in `finish`:
on the worker, or on the device once the batch is there.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from medpretrain3d.loading.augment import IntensityAugment, IntensityChange, SpatialAugment
from medpretrain3d.loading.sampling import CropSampler
from medpretrain3d.loading.spatial_transform import IDENTITY, Patch, SpatialTransform, apply_transform
from medpretrain3d.store.case import Case
from medpretrain3d.store.normalization import Normalization
from medpretrain3d.transfer import pinned, sent

AugmentOn = Literal["workers", "device"]
"""Where crops are transformed: on the processes that read them, or on the device that trains."""


@dataclass(frozen=True, eq=False)
class DeferredCrop:
    """Voxels as stored, margin included, and the way from them to the network's input."""

    voxels: Tensor
    """(C, d, h, w) int16."""
    spatial_transform: SpatialTransform
    patch: Patch
    window: Normalization
    change: IntensityChange | None = None

    def apply(self) -> Tensor:
        """Return the crop (C, D, H, W) float32. HU are interpolated and then windowed, as `prepare` resamples HU."""
        image = self.window(apply_transform(self.voxels, self.spatial_transform, self.patch))
        return image if self.change is None else self.change(image)

    def to(self, device: torch.device | str) -> DeferredCrop:
        """Return the same crop on another device."""
        return replace(self, voxels=sent(self.voxels, device))

    def pin_memory(self) -> DeferredCrop:
        """Return the same crop in pinned memory, from which `to` copies while the host goes on."""
        return replace(self, voxels=pinned(self.voxels))


@dataclass(frozen=True, eq=False)
class DeferredLabels:
    """The same of a map of instances: every instance becomes `value_of[instance]`."""

    voxels: Tensor
    """(1, d, h, w) uint16."""
    spatial_transform: SpatialTransform
    patch: Patch
    value_of: Tensor
    """(ids,) whole numbers; the result has their type."""

    def instances(self) -> Tensor:
        """Return the instance ids (D, H, W) int64."""
        return self._placed().long()

    def apply(self) -> Tensor:
        """Return the values (D, H, W)."""
        placed = self._placed()
        if placed.device.type == "cpu":
            values = torch.empty(placed.shape, dtype=self.value_of.dtype)
            _look_up()(self.value_of.numpy(), placed.numpy(), values.numpy())
            return values
        return self.value_of[placed.long()]

    def _placed(self) -> Tensor:
        """Return the instance ids (D, H, W), uint16 on the CPU and int32 elsewhere: torch can do little with uint16."""
        if self.voxels.device.type != "cpu":
            return apply_transform(self.voxels.to(torch.int32), self.spatial_transform, self.patch, nearest=True)[0]
        if self.spatial_transform.is_plain:  # only mirrored, which needs no more than the size of a voxel
            return apply_transform(self.voxels.view(torch.int16), self.spatial_transform, self.patch)[0].view(
                torch.uint16
            )
        return apply_transform(self.voxels, self.spatial_transform, self.patch, nearest=True)[0]

    def to(self, device: torch.device | str) -> DeferredLabels:
        """Return the same map on another device."""
        return replace(self, voxels=sent(self.voxels, device), value_of=sent(self.value_of, device))

    def pin_memory(self) -> DeferredLabels:
        """Return the same map in pinned memory, see `DeferredCrop`."""
        return replace(self, voxels=pinned(self.voxels), value_of=pinned(self.value_of))


@dataclass(frozen=True)
class CropReader:
    """Reader of crops: size, window, and what is drawn for each."""

    patch: Patch
    window: Normalization
    spatial: SpatialAugment | None = None
    intensity: IntensityAugment | None = None
    crop_sampler: CropSampler = field(default_factory=CropSampler)

    def draw_placement(self, case: Case, random: np.random.Generator) -> SpatialTransform:
        """Return rotation, zoom and mirroring of one crop."""
        return self.spatial.draw(random, case.grid.spacing_mm) if self.spatial else IDENTITY

    def image(
        self, case: Case, start: Patch, spatial_transform: SpatialTransform, random: np.random.Generator
    ) -> DeferredCrop:
        """Read the image of a crop that stands at `start`, margin included where something is interpolated."""
        return self.crop(case, case.read_image(*spatial_transform.source(start, self.patch)), spatial_transform, random)

    def crop(
        self, case: Case, voxels: np.ndarray, spatial_transform: SpatialTransform, random: np.random.Generator
    ) -> DeferredCrop:
        """Return voxels (C, d, h, w) of the case already read; draws the change of intensity."""
        change = self.intensity.draw(random) if self.intensity else None
        window = self.window.fitted_to(case)
        return DeferredCrop(torch.from_numpy(voxels), spatial_transform, self.patch, window, change)

    def labels(self, case: Case, start: Patch, spatial_transform: SpatialTransform) -> DeferredLabels:
        """Read the instance map of a crop; finished, 0 is background and `label + 1` inside objects."""
        instances = case.read_instances(*spatial_transform.source(start, self.patch))
        return DeferredLabels(
            torch.from_numpy(instances[None]), spatial_transform, self.patch, torch.from_numpy(case.label_of_instance)
        )


@functools.cache
def _look_up() -> Any:
    from medpretrain3d.loading.spatial_kernels import look_up  # numba takes half a second to import

    return look_up


def apply_crops(sample: Any) -> Any:
    """Finish every crop inside of dictionaries and lists; a list of crops becomes one tensor (V, ...)."""
    if hasattr(sample, "apply"):
        return sample.apply()
    if isinstance(sample, Mapping):
        return {key: apply_crops(value) for key, value in sample.items()}
    if isinstance(sample, list):
        return torch.stack([apply_crops(one) for one in sample])
    return sample


def draw_seed(random: np.random.Generator) -> int:
    """Return a seed for whoever makes random choices of its own later."""
    return int(random.integers(0, 2**63 - 1))
