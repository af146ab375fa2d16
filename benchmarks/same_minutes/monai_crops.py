"""Crops and augmentation of MONAI's detection tutorial, as far as they apply to a data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from monai.apps.detection.transforms.dictionary import (
    BoxToMaskd,
    ClipBoxToImaged,
    MaskToBoxd,
    RandCropBoxByPosNegLabeld,
    RandFlipBoxd,
    RandRotateBox90d,
    RandZoomBoxd,
    StandardizeEmptyBoxd,
)
from monai.transforms import (
    Compose,
    DeleteItemsd,
    OneOf,
    RandAdjustContrastd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandRotated,
    RandScaleIntensityd,
    RandShiftIntensityd,
    SpatialPadd,
)

from benchmarks.same_minutes.adapter import BOX, IMAGE, LABEL

MASK = "box_mask"
IN_PLANE = (1, 2)
"""Axes of stored volumes within an axial slice, in which the tutorial turns by 90 degrees."""


def to_patch_size(patch: Sequence[int]) -> SpatialPadd:
    """Return what pads volumes smaller than the crop behind their last voxel, so that boxes stay."""
    return SpatialPadd(keys=[IMAGE], spatial_size=patch, method="end")


def training_crops(patch: Sequence[int], crops: int, mirror_axes: Sequence[int]) -> Compose:
    """Return what makes `crops` augmented crops of a padded case.

    Mirroring and turns by 90 degrees are left out along axes that the data set does not allow. Boxes become masks and
    boxes again, which moves their edges to whole voxels, only where a crop is rotated, and not always as there.

    Args:
        patch: crop (D, H, W) in voxels.
        crops: of one case.
        mirror_axes: along which crops may be mirrored.
    """
    boxes_of: dict[str, Any] = {"image_keys": [IMAGE], "box_keys": [BOX], "box_ref_image_keys": [IMAGE]}
    flips = [RandFlipBoxd(**boxes_of, prob=0.5, spatial_axis=axis) for axis in mirror_axes]
    turns_fit = set(IN_PLANE) <= set(mirror_axes) and patch[IN_PLANE[0]] == patch[IN_PLANE[1]]
    turns = [RandRotateBox90d(**boxes_of, prob=0.75, max_k=3, spatial_axes=IN_PLANE)] if turns_fit else []
    smooth: dict[str, Any] = {f"sigma_{axis}": (0.5, 1.0) for axis in "xyz"}
    return Compose(
        [
            StandardizeEmptyBoxd(box_keys=[BOX], box_ref_image_keys=IMAGE),
            RandCropBoxByPosNegLabeld(
                image_keys=[IMAGE],
                box_keys=BOX,
                label_keys=LABEL,
                spatial_size=patch,
                whole_box=True,
                num_samples=crops,
                pos=1,
                neg=1,
            ),
            RandZoomBoxd(**boxes_of, prob=0.2, min_zoom=0.7, max_zoom=1.4, padding_mode="constant", keep_size=True),
            ClipBoxToImaged(box_keys=BOX, label_keys=[LABEL], box_ref_image_keys=IMAGE, remove_empty=True),
            *flips,
            *turns,
            OneOf([Compose([]), _rotation()], weights=(0.8, 0.2)),
            RandGaussianNoised(keys=[IMAGE], prob=0.1, mean=0, std=0.1),
            RandGaussianSmoothd(keys=[IMAGE], prob=0.1, **smooth),
            RandScaleIntensityd(keys=[IMAGE], prob=0.15, factors=0.25),
            RandShiftIntensityd(keys=[IMAGE], prob=0.15, offsets=0.1),
            RandAdjustContrastd(keys=[IMAGE], prob=0.3, gamma=(0.7, 1.5)),
        ]
    )


def _rotation() -> Compose:
    of_masks: dict[str, Any] = {"box_keys": [BOX], "label_keys": [LABEL], "box_mask_keys": [MASK], "min_fg_label": 0}
    angles: dict[str, Any] = {f"range_{axis}": math.pi / 6 for axis in "xyz"}
    return Compose(
        [
            BoxToMaskd(**of_masks, box_ref_image_keys=IMAGE, ellipse_mask=True),
            RandRotated(
                keys=[IMAGE, MASK],
                mode=["nearest", "nearest"],
                prob=1.0,
                **angles,
                keep_size=True,
                padding_mode="zeros",
            ),
            MaskToBoxd(**of_masks),
            DeleteItemsd(keys=[MASK]),
        ]
    )
