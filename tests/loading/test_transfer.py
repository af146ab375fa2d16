"""Batches on their way to a device: all of them through pinned memory, by copies that nobody waits for."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities import move_data_to_device
from torch import Tensor
from torch.utils.data._utils.pin_memory import pin_memory

from medpretrain3d.boxes import Targets
from medpretrain3d.engine.loader import make_loader
from medpretrain3d.loading.batches import PositionBatches
from medpretrain3d.loading.crops import CropReader, apply_crops
from medpretrain3d.loading.image_crops import ImageCrops
from medpretrain3d.loading.object_crops import ObjectCrops, collate_objects
from medpretrain3d.loading.sampling import CaseOrder
from medpretrain3d.loading.views import LabeledView, TwoViews
from medpretrain3d.store.case import CaseData, Instance, write_case
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.intensity import Window
from medpretrain3d.store.store import write_index

GRID = Grid((12, 12, 12), np.diag([1.0, 1, 1, 1]))


@pytest.fixture
def order(tmp_path):
    image, mask = np.zeros((1, 12, 12, 12), np.int16), np.zeros((12, 12, 12), np.uint16)
    mask[2:6, 2:6, 2:6] = 1
    case = CaseData("x", image, GRID, GRID, "x.nii.gz", [Instance(1, 0, (2.0, 2, 2, 6, 6, 6))], mask, voxels="x")
    write_index(tmp_path, ["a"], (1.0, 1.0, 1.0), [write_case(tmp_path, case)], {})
    return CaseOrder(Corpus([tmp_path]).cases("all"), 0)


@pytest.fixture
def batches(order):
    """A batch of each kind that a stage sends."""
    reader = CropReader((8, 8, 8), Window(0, 1000))
    objects = [ObjectCrops(order, reader, augment_on=place) for place in ("workers", "device")]
    views = [ImageCrops(order, reader, views, "device") for views in (TwoViews(), LabeledView())]
    return [crops.collate([crops[0], crops[1]]) for crops in (*objects, *views)]


def tensors_of(batch):
    if isinstance(batch, Tensor):
        return [batch]
    if isinstance(batch, dict):
        batch = list(batch.values())
    elif not isinstance(batch, list | tuple):
        batch = [value for value in vars(batch).values() if isinstance(value, Tensor) or hasattr(value, "to")]
    return [tensor for one in batch for tensor in tensors_of(one)]


def test_every_tensor_of_a_batch_is_pinned_by_the_loaders_thread(batches, monkeypatch):
    pinned = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: pinned.append(self) or self.clone())
    for batch in batches:
        pinned.clear()
        found = pin_memory(batch)
        assert [id(one) for one in pinned] == [id(one) for one in tensors_of(batch)]
        for mine, theirs in zip(tensors_of(found), tensors_of(batch), strict=True):
            assert mine is not theirs
            assert mine.equal(theirs)


def test_every_copy_to_a_device_goes_on_beside_the_host_and_none_to_the_cpu(batches, monkeypatch):
    to, copies = Tensor.to, []

    def noted(self, *args, **kwargs):
        copies.append((str(args[0]), kwargs.get("non_blocking", False)))
        return to(self, *args, **kwargs)

    wanted = [len(tensors_of(batch)) for batch in batches]
    monkeypatch.setattr(Tensor, "to", noted)
    for batch, count in zip(batches, wanted, strict=True):
        copies.clear()
        moved = move_data_to_device(batch, torch.device("meta"))
        assert copies == [("meta", True)] * count
        assert all(one.device.type == "meta" for one in tensors_of(moved))
        copies.clear()
        move_data_to_device(batch, torch.device("cpu"))
        assert copies == [("cpu", False)] * count


def test_what_was_pinned_and_sent_is_finished_as_what_was_not(order, monkeypatch):
    monkeypatch.setattr(Tensor, "pin_memory", Tensor.clone)
    crops = ObjectCrops(order, CropReader((8, 8, 8), Window(0, 1000)), augment_on="device")
    one = replace(crops[0], ignore=torch.tensor([[0.0, 0, 0, 1, 1, 1]]))
    (image, (target,)), (wanted, (expected,)) = (
        collate_objects([sample.apply()]) for sample in (one.pin_memory().to("cpu"), one)
    )
    assert image.equal(wanted)
    for name in ("boxes", "labels", "mask", "ignore", "seed"):
        assert getattr(target, name).equal(getattr(expected, name))
    assert apply_crops(one.image.pin_memory().to("cpu")).equal(apply_crops(one.image))


def test_targets_without_masks_keep_their_gaps(monkeypatch):
    monkeypatch.setattr(Tensor, "pin_memory", Tensor.clone)
    found = Targets(torch.zeros(0, 6), torch.zeros(0, dtype=torch.long)).pin_memory().to("meta")
    assert (found.mask, found.ignore, found.seed) == (None, None, None)
    assert found.boxes.device.type == found.labels.device.type == "meta"


@pytest.mark.parametrize(("kind", "is_pinned"), [("cuda", True), ("cpu", False)])
def test_memory_is_pinned_for_the_device_that_trains_and_not_for_one_that_is_merely_there(kind, is_pinned, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    given = {}
    monkeypatch.setattr("medpretrain3d.engine.loader.DataLoader", lambda *_, **options: given.update(options))
    for workers, ahead in ((0, None), (2, 5)):
        make_loader(SimpleNamespace(), PositionBatches(1, 2), workers, None, 5, torch.device(kind))
        assert (given["pin_memory"], given["prefetch_factor"]) == (is_pinned, ahead)
