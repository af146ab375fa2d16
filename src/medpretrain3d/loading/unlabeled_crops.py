"""Crops of scans without labels, read beside those of `ObjectCrops` in the same batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Sampler

from medpretrain3d.loading.batches import PositionBatches, generator_at
from medpretrain3d.loading.crops import AugmentOn, CropReader, DeferredCrop, draw_seed
from medpretrain3d.loading.object_crops import ObjectCrops
from medpretrain3d.loading.sampling import CaseOrder
from medpretrain3d.transfer import pinned, sent


@dataclass(frozen=True, eq=False)
class UnlabeledBatch:
    """The same crops twice: as they are, for a teacher, and with their intensities changed, for a student."""

    image: Tensor
    """(U, C, D, H, W) float32."""
    changed: Tensor
    """(U, C, D, H, W) float32."""
    seeds: tuple[int, ...]
    """(U,), for whoever makes random choices about a crop later; on the host, where they are made."""

    def to(self, device: torch.device | str) -> UnlabeledBatch:
        """Return the same batch on another device."""
        return replace(self, image=sent(self.image, device), changed=sent(self.changed, device))

    def pin_memory(self) -> UnlabeledBatch:
        """Return the same batch in pinned memory, from which `to` copies while the host goes on."""
        return replace(self, image=pinned(self.image), changed=pinned(self.changed))


@dataclass(frozen=True, eq=False)
class DeferredUnlabeled:
    """A crop as read, and the seed of what is drawn about it later."""

    crop: DeferredCrop
    seed: int

    def apply(self) -> tuple[Tensor, Tensor, int]:
        """Return the crop (C, D, H, W) without and with its change of intensity, and its seed."""
        image = replace(self.crop, change=None).apply()
        return image, image if self.crop.change is None else self.crop.change(image), self.seed

    def to(self, device: torch.device | str) -> DeferredUnlabeled:
        """Return the same sample on another device."""
        return replace(self, crop=self.crop.to(device))

    def pin_memory(self) -> DeferredUnlabeled:
        """Return the same sample in pinned memory, see `DeferredCrop`."""
        return replace(self, crop=self.crop.pin_memory())


class UnlabeledCrops(Dataset[Any]):
    """Random crops of scans, of whose objects nothing is read; drawn from (seed, position).

    Args:
        order: which case is at a position; its seed is the seed of all random choices.
        reader: how crops are read and placed.
        augment_on: with `device`, crops are finished by `apply_deferred_unlabeled` on the device.
        num_positions: length of the data set; the order never ends, so this is for samplers that ask.
    """

    def __init__(
        self, order: CaseOrder, reader: CropReader, augment_on: AugmentOn = "workers", num_positions: int = 2**31
    ) -> None:
        self.order = order
        self.reader = reader
        self.augment_on = augment_on
        self.num_positions = num_positions

    def __len__(self) -> int:
        return self.num_positions

    def __getitem__(self, position: int) -> Any:
        random = generator_at(self.order.seed, position)
        case = self.order.at(position).open()
        spatial_transform = self.reader.draw_placement(case, random)
        start = self.reader.crop_sampler.draw(case, self.reader.patch, random)
        crop = self.reader.image(case, start, spatial_transform, random)
        sample = DeferredUnlabeled(crop, draw_seed(random))
        return sample.apply() if self.augment_on == "workers" else sample

    def collate(self, samples: list[Any]) -> Any:
        """Return a batch; with `augment_on` device the samples as they are."""
        return collate_unlabeled(samples) if self.augment_on == "workers" else samples


def collate_unlabeled(samples: Sequence[tuple[Tensor, Tensor, int]]) -> UnlabeledBatch:
    """Return finished crops as a batch."""
    images, changed, seeds = zip(*samples, strict=True)
    return UnlabeledBatch(torch.stack(images), torch.stack(changed), tuple(seeds))


def apply_deferred_unlabeled(batch: Any) -> UnlabeledBatch:
    """Return the batch that reached its device, finished; a finished one passes as it is."""
    if isinstance(batch, list):
        return collate_unlabeled([sample.apply() for sample in batch])
    finished: UnlabeledBatch = batch
    return finished


class BothCrops(ConcatDataset[Any]):
    """Labeled crops and, behind them, those without labels, as one data set.

    Args:
        labeled: the first `offset` items.
        unlabeled: those behind.
        batch_size: labeled crops of a batch, which are its first.
    """

    def __init__(self, labeled: ObjectCrops, unlabeled: UnlabeledCrops, batch_size: int) -> None:
        super().__init__([labeled, unlabeled])
        self.labeled = labeled
        self.unlabeled = unlabeled
        self.batch_size = batch_size
        self.offset = len(labeled)

    def collate(self, samples: list[Any]) -> tuple[Any, Any]:
        """Return the batch of the labeled crops, and that of the others."""
        return self.labeled.collate(samples[: self.batch_size]), self.unlabeled.collate(samples[self.batch_size :])


class SideBySide(Sampler[list[int]]):
    """Batches of two samplers in one, for `BothCrops`.

    Each keeps its own positions: what is in the first half of a batch is what it would be alone.

    Args:
        first: of the labeled crops.
        second: of the others, as many batches.
        offset: where the others begin.
    """

    def __init__(self, first: PositionBatches, second: PositionBatches, offset: int) -> None:
        self.first = first
        self.second = second
        self.offset = offset

    def __iter__(self) -> Iterator[list[int]]:
        for ours, theirs in zip(self.first, self.second, strict=True):
            yield [*ours, *(self.offset + position for position in theirs)]

    def __len__(self) -> int:
        return len(self.first)
