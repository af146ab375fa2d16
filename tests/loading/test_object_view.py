"""Crops with objects as stage 1 reads them are those that stage 2 reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medpretrain3d.errors import UserError
from medpretrain3d.loading.augment import SpatialAugment
from medpretrain3d.loading.crops import CropReader
from medpretrain3d.loading.image_crops import ImageCrops, apply_deferred
from medpretrain3d.loading.object_crops import ObjectCrops
from medpretrain3d.loading.object_view import ObjectView
from medpretrain3d.loading.sampling import CaseOrder, CropSampler
from medpretrain3d.store.case import CaseData, Instance, write_case
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.intensity import Window
from medpretrain3d.store.store import write_index

PATCH = (12, 16, 20)


def write_store(folder, classes, has_mask=True):
    rows = []
    for number, letter in enumerate("abc"):
        image = np.random.default_rng(number).integers(-500, 500, (1, 24, 24, 24)).astype(np.int16)
        mask = np.zeros((24, 24, 24), np.uint16)
        mask[4:10, 5:12, 6:16], mask[14:20, 2:8, 2:8] = 1, 2
        objects = [Instance(1, 0, (4.0, 5, 6, 10, 12, 16)), Instance(2, len(classes) - 1, (14.0, 2, 2, 20, 8, 8))]
        grid = Grid((24, 24, 24), np.eye(4)[[2, 1, 0, 3]])
        rows.append(
            write_case(
                folder,
                CaseData(letter, image, grid, grid, "x", objects if classes else (), mask if has_mask else None),
            )
        )
    write_index(folder, classes, (1.0, 1.0, 1.0), rows, {}, ["CT"])
    return folder


@pytest.fixture(scope="module")
def order(tmp_path_factory):
    corpus = Corpus([write_store(tmp_path_factory.mktemp("objects") / "store", ["bone", "air"])])
    return CaseOrder(corpus.cases("all"), 3)


def reader(**options):
    return CropReader(PATCH, Window(-500, 500), crop_sampler=CropSampler(object_share=0.5), **options)


@pytest.mark.parametrize("spatial", [None, SpatialAugment(rotation_deg=20, rotation_p=1.0)])
def test_boxes_masks_and_images_are_those_of_fine_tuning(order, spatial):
    views = ImageCrops(order, reader(spatial=spatial), ObjectView())
    crops = ObjectCrops(order, reader(spatial=spatial))
    batch = views.collate([views[position] for position in range(6)])
    for sample in range(6):
        _, targets = crops[sample]
        own = batch["box_of"] == sample
        # Stage 2 draws where a crop is placed before how: boxes are compared with the mask that came along.
        for box, label in zip(batch["boxes"][own], batch["labels"][own], strict=True):
            d, h, w = ((box[axis] + box[axis + 3]) / 2 for axis in range(3))
            assert batch["label_map"][sample, int(d), int(h), int(w)] == label + 1
        assert targets.mask.shape == batch["label_map"][sample].shape
    assert batch["image"].shape == (6, 1, *PATCH)
    assert batch["seed"].shape == (6,)
    assert len(batch["boxes"]) == len(batch["labels"]) == len(batch["box_of"]) > 3


def test_crops_finished_on_the_device_are_those_of_the_workers(order):
    views = ImageCrops(order, reader(), ObjectView())
    later = ImageCrops(order, reader(), ObjectView(), "device")
    batch = views.collate([views[position] for position in range(4)])
    finished = apply_deferred(later.collate([later[position] for position in range(4)]), later.views)
    assert batch.keys() == finished.keys()
    assert all(torch.equal(batch[name], finished[name]) for name in batch)


def test_without_masks_there_is_no_label_map(tmp_path):
    corpus = Corpus([write_store(tmp_path / "boxes", ["bone"], has_mask=False)])
    views = ImageCrops(CaseOrder(corpus.cases("all"), 0), reader(), ObjectView())
    assert "label_map" not in views.collate([views[0], views[1]])


def test_stores_without_objects_or_of_other_kinds_are_refused(tmp_path, order):
    none = Corpus([write_store(tmp_path / "none", [])])
    with pytest.raises(UserError, match="holds no objects; find some with `medpretrain3d pseudo"):
        ImageCrops(CaseOrder(none.cases("all"), 0), reader(), ObjectView())
    two = Corpus([write_store(tmp_path / "one", ["bone"]), write_store(tmp_path / "other", ["air"])])
    with pytest.raises(UserError, match="stores of different classes"):
        ImageCrops(CaseOrder(two.cases("all"), 0), reader(), ObjectView())
