"""Samples for pretraining."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from medpretrain3d.loading.batches import generator_at
from medpretrain3d.loading.crops import AugmentOn, CropReader, apply_crops, draw_seed
from medpretrain3d.loading.sampling import CaseOrder
from medpretrain3d.loading.views import Views


class ImageCrops(Dataset[dict[str, Any]]):
    """Dataset of the views that an objective asks for, drawn from (seed, position).

    Item `position` is the sample of `views` with a `seed` () int64 added.

    Args:
        order: which case is at a position; its seed is the seed of all random choices.
        reader: how crops are read.
        views: what a sample consists of.
        augment_on: with `device`, items hold unfinished crops, and `apply_deferred` has to be called on the device.
        num_positions: length of the data set; the order never ends, so this is for samplers that ask.

    Raises:
        UserError: settings that the views cannot work with.
    """

    def __init__(
        self,
        order: CaseOrder,
        reader: CropReader,
        views: Views,
        augment_on: AugmentOn = "workers",
        num_positions: int = 2**31,
    ) -> None:
        views.check(reader, order)
        self.order = order
        self.reader = reader
        self.views = views
        self.augment_on = augment_on
        self.num_positions = num_positions

    def __len__(self) -> int:
        return self.num_positions

    def __getitem__(self, position: int) -> dict[str, Any]:
        random = generator_at(self.order.seed, position)
        sample = self.views.draw(self.reader, self.order, position, random)
        sample["seed"] = torch.tensor(draw_seed(random))
        return apply_crops(sample) if self.augment_on == "workers" else sample

    def collate(self, samples: list[dict[str, Any]]) -> Any:
        """Return a batch; with `augment_on` device the samples as they are."""
        return self.views.collate(samples) if self.augment_on == "workers" else samples


def apply_deferred(batch: Any, views: Views) -> dict[str, Tensor]:
    """Return the batch that an objective gets, from one that reached its device; finished ones pass as they are.

    Samples are finished one by one: only those that drew an operation pay for it, and each is a million voxels, enough
    to fill a device.
    """
    return views.collate([apply_crops(sample) for sample in batch]) if isinstance(batch, list) else batch
