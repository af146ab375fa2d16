"""The whole augmentation of a 96^3 crop with its mask, with the probabilities of the nnDetection recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import numpy as np
import torch
from monai import transforms as monai

from benchmarks.peers import peer
from benchmarks.timing import Row, one_thread, race
from medpretrain3d.loading.augment import IntensityAugment, SpatialAugment
from medpretrain3d.loading.batches import generator_at
from medpretrain3d.loading.crops import DeferredCrop, DeferredLabels
from medpretrain3d.store.intensity import Window

PATCH = (96, 96, 96)
CROPS = 20
ANGLE = np.deg2rad(30)
VOLUME = (256, 256, 256)


def rows() -> Iterator[Row]:
    random = np.random.default_rng(0)
    volume = random.normal(0, 300, VOLUME).astype(np.int16)[None]
    labels = (random.random(VOLUME) < 0.01).astype(np.uint16)[None]
    work = f"augmentation of {CROPS} crops of 96^3 with masks, 1 thread"
    ours = _ours(volume, labels)
    with one_thread():
        yield race(work, "monai", _monai(volume, labels), ours, bar=2)
        yield race(work, "batchgeneratorsv2", _batchgenerators(volume, labels), ours, bar=2)


def _middle(array: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    region = tuple(
        slice((whole - edge) // 2, (whole - edge) // 2 + edge) for whole, edge in zip(VOLUME, size, strict=True)
    )
    return array[(slice(None), *region)].copy()


def _ours(volume: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    spatial, intensity, window = SpatialAugment(), IntensityAugment(), Window()
    value_of, position = torch.tensor([0, 1]), count()

    def run() -> None:
        for _ in range(CROPS):
            random = generator_at(0, next(position))
            spatial_transform = spatial.draw(random)
            size = spatial_transform.source_size(PATCH)
            image = DeferredCrop(
                torch.from_numpy(_middle(volume, size)), spatial_transform, PATCH, window, intensity.draw(random)
            )
            mask = DeferredLabels(torch.from_numpy(_middle(labels, size)), spatial_transform, PATCH, value_of)
            assert image.apply().shape[1:] == mask.apply().shape

    return run


def _monai(volume: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    window = Window()
    keys = ["image", "label"]
    chain = monai.Compose(
        [
            # One affine for rotation and zoom: at least one of them happens in 1 - 0.8^2 of the crops.
            monai.RandAffined(
                keys,
                spatial_size=PATCH,
                prob=0.36,
                rotate_range=[ANGLE] * 3,
                scale_range=[(-0.3, 0.4)] * 3,
                mode=["bilinear", "nearest"],
            ),
            *[monai.RandFlipd(keys, 0.5, axis) for axis in range(3)],
            monai.RandGaussianNoised(["image"], 0.1, std=0.3),
            monai.RandGaussianSmoothd(["image"], (0.5, 1), (0.5, 1), (0.5, 1), prob=0.2),
            monai.RandScaleIntensityd(["image"], 0.25, prob=0.15),
            monai.RandScaleIntensityFixedMeand(["image"], factors=0.25, prob=0.15, preserve_range=True),
            monai.RandAdjustContrastd(["image"], 0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True),
            monai.RandAdjustContrastd(["image"], 0.3, gamma=(0.7, 1.5), retain_stats=True),
        ]
    ).set_random_state(0)

    def run() -> None:
        for _ in range(CROPS):
            image = torch.from_numpy(window(_middle(volume, PATCH)))
            mask = torch.from_numpy(_middle(labels, PATCH).astype(np.float32))
            assert chain({"image": image, "label": mask})["image"].shape[1:] == PATCH

    return run


def _batchgenerators(volume: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    folder = "batchgeneratorsv2.transforms."
    contrast = peer(folder + "intensity.contrast")
    gamma, maybe = peer(folder + "intensity.gamma").GammaTransform, peer(folder + "utils.random").RandomTransform
    chain = peer(folder + "utils.compose").ComposeTransforms(
        [
            peer(folder + "spatial.spatial").SpatialTransform(
                PATCH,
                patch_center_dist_from_border=0,
                random_crop=False,
                p_rotation=0.2,
                rotation=(-ANGLE, ANGLE),
                p_scaling=0.2,
                scaling=(0.7, 1.4),
                p_synchronize_scaling_across_axes=1,
                mode_seg="nearest",
            ),
            maybe(peer(folder + "intensity.gaussian_noise").GaussianNoiseTransform((0, 0.1), 1, True), 0.1),
            maybe(peer(folder + "noise.gaussian_blur").GaussianBlurTransform((0.5, 1.0), True, True, 1), 0.2),
            maybe(
                peer(folder + "intensity.brightness").MultiplicativeBrightnessTransform(
                    contrast.BGContrast((0.75, 1.25)), True, 1
                ),
                0.15,
            ),
            maybe(contrast.ContrastTransform(contrast.BGContrast((0.75, 1.25)), True, True, 1), 0.15),
            maybe(gamma(contrast.BGContrast((0.7, 1.5)), 1, True, 1, 1), 0.1),
            maybe(gamma(contrast.BGContrast((0.7, 1.5)), 0, True, 1, 1), 0.3),
            peer(folder + "spatial.mirroring").MirrorTransform((0, 1, 2)),
        ]
    )
    window = Window()
    # The margin that nnU-Net reads for every crop, because some are rotated or zoomed.
    with_margin = (205, 205, 205)

    def run() -> None:
        for _ in range(CROPS):
            image = torch.from_numpy(window(_middle(volume, with_margin)))
            mask = torch.from_numpy(_middle(labels, with_margin).astype(np.int16))
            assert chain(image=image, segmentation=mask)["image"].shape[1:] == PATCH

    return run
