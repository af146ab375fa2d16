"""Instance-centred crops read from a store, with masks and without, against MONAI's sampling on the loaded volume."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import torch
from monai.apps.detection.transforms.dictionary import RandCropBoxByPosNegLabeld
from monai.transforms import RandCropByPosNegLabeld
from scipy.ndimage import gaussian_filter

from benchmarks.timing import Row, one_thread, race
from medpretrain3d.loading.crops import CropReader
from medpretrain3d.loading.object_crops import ObjectCrops
from medpretrain3d.loading.sampling import CaseOrder, CropSampler
from medpretrain3d.store.case import CaseData, Instance, write_case
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.intensity import Window
from medpretrain3d.store.store import write_index

SHAPE = (300, 512, 512)
PATCH = (96, 96, 96)


def rows() -> Iterator[Row]:
    random = np.random.default_rng(0)
    block = (gaussian_filter(random.normal(0, 60, (100, 128, 128)), 0.7) - 400).astype(np.int16)
    image = np.tile(block, (3, 4, 4))[None]
    mask = np.zeros(SHAPE, np.uint16)
    boxes = []
    for number in range(1, 6):
        low = random.integers(20, np.array(SHAPE) - 40)
        high = low + random.integers(6, 20, 3)
        mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = number
        boxes.append([*low.tolist(), *high.tolist()])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grid = Grid(SHAPE, np.eye(4)[[2, 1, 0, 3]])
        objects = [Instance(number + 1, 0, tuple(map(float, box))) for number, box in enumerate(boxes)]

        def ours(kind: str, mask: np.ndarray | None) -> Callable[[], None]:
            row = write_case(folder / kind, CaseData("ct", image, grid, grid, "ct.nii", objects, mask))
            write_index(folder / kind, ["nodule"], (1.0, 1.0, 1.0), [row], {})
            order = CaseOrder(Corpus([folder / kind]).cases("train"), seed=0)
            crops = ObjectCrops(order, CropReader(PATCH, Window(), crop_sampler=CropSampler(object_share=0.5)))
            position = count()

            return _ten(lambda: crops[next(position)])

        loaded = {"image": torch.from_numpy(image).float(), "label": torch.from_numpy(mask[None].astype(np.int16))}
        by_label = RandCropByPosNegLabeld(["image", "label"], "label", PATCH, pos=1, neg=1, num_samples=1)
        by_box = RandCropBoxByPosNegLabeld(
            ["image"], "boxes", ["labels"], PATCH, pos=1, neg=1, num_samples=1, allow_smaller=False
        )
        with_boxes = {
            "image": loaded["image"],
            "boxes": torch.tensor(boxes, dtype=torch.float32),
            "labels": torch.zeros(len(boxes)),
        }
        work = "10 object-centred 96^3 crops of a 300 x 512 x 512 CT"
        with_mask, without = ours("mask", mask), ours("boxes", None)
        with one_thread():
            yield race(
                work, "monai CropByPosNegLabel", _ten(lambda: by_label(loaded)), with_mask, keeps_memory=True, bar=15
            )
            yield race(
                work, "monai CropBoxByPosNeg", _ten(lambda: by_box(with_boxes)), without, keeps_memory=True, bar=15
            )


def _ten(crop: Callable[[], object]) -> Callable[[], None]:
    """Ten in a row, as a worker makes them."""

    def run() -> None:
        for _ in range(10):
            crop()

    return run
