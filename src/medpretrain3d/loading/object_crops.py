"""Samples for training detectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from medpretrain3d.boxes import Targets, box_size, box_volume, has_extent, is_point
from medpretrain3d.loading.batches import generator_at
from medpretrain3d.loading.crops import AugmentOn, CropReader, DeferredCrop, DeferredLabels, draw_seed
from medpretrain3d.loading.hard_negatives import HardNegatives
from medpretrain3d.loading.instance_hulls import NUM_IDS, instance_hulls
from medpretrain3d.loading.sampling import CaseOrder, box_start, object_start
from medpretrain3d.loading.spatial_transform import Patch, SpatialTransform, place_boxes
from medpretrain3d.store.case import Case
from medpretrain3d.transfer import sent


@dataclass(frozen=True, eq=False)
class DeferredObjects:
    """A crop as read and the objects around it, whose boxes are already carried to the patch."""

    image: DeferredCrop
    boxes: Tensor
    """(N, 6) float64, not cut at the patch's faces."""
    labels: Tensor
    """(N,) int64."""
    ignore: Tensor
    """(M, 6) float32, cut."""
    instances: DeferredLabels | None
    ids: Tensor
    """(N,) int64 value of each object in `instances`, 0 for one that its voxels there do not outline."""
    min_visible: float
    seed: Tensor
    """() int64, for whoever makes random choices about the sample later."""
    num_voxels: Tensor | None = None
    """(N,) float64 voxels that each object would have in an endless patch, 0 where none were counted; None: no mask."""

    def apply(self) -> tuple[Tensor, Targets]:
        """Return image (C, D, H, W) float32 and what is to be found in it."""
        patch, aligned = self.image.patch, self.image.spatial_transform.is_aligned
        visible = self.boxes.clamp(min=0).minimum(self.boxes.new_tensor([*patch, *patch]))
        # What is seen of an object is compared with the whole by one measure: of a thin one that lies askew, the hull
        # of half is an eighth of the box.
        seen, whole = box_volume(visible), box_volume(self.boxes).clamp(min=1e-6)
        mask = None
        if self.instances is not None:
            # The hull of a resampled mask is rounded to whole voxels: on OpenKBP at 4 mm its faces are 0.26 voxels off
            # on average and its IoU with the exact box is 0.87. So a whole object keeps its exact box; a cut or rotated
            # one has only its mask to go by, unless it is too small to have a voxel there though all of it is.
            is_whole = (visible == self.boxes).all(dim=1)
            is_seen = has_extent(visible)
            judged = (is_seen & ~(is_whole & aligned) & (self.ids > 0)).nonzero()[:, 0]
            if len(judged):
                instances = self.instances.instances()
                hulls = instance_hulls(instances, self.ids[judged]).to(visible.dtype)
                is_missed = is_whole[judged] & ~has_extent(hulls)
                visible[judged] = torch.where(is_missed[:, None], visible[judged], hulls)
                if self.num_voxels is not None:
                    counts = instances.flatten().bincount(minlength=NUM_IDS)[self.ids[judged]].to(seen.dtype)
                    is_counted = ~is_whole[judged] & (self.num_voxels[judged] > 0)
                    seen[judged] = torch.where(is_counted, counts, seen[judged])
                    whole[judged] = torch.where(is_counted, self.num_voxels[judged], whole[judged])
            mask = self.instances.apply()
        keep = seen >= self.min_visible * self._share_that_fits() * whole
        has_size = has_extent(visible.float())
        keep &= has_size  # with a least share of 0 too, what lies outside is no target
        keep |= is_point(self.boxes) & (visible == self.boxes).all(dim=1)  # a point is inside or not
        ignore = torch.cat([self.ignore, visible[has_size & ~keep].float()])
        targets = Targets(visible[keep].float(), self.labels[keep], mask, ignore, self.seed)
        return self.image.apply(), targets

    def _share_that_fits(self) -> Tensor:
        """Return the largest share of the volume of each box (N,) that a patch can hold; 1 for those that fit."""
        # Without it, an object with over ten times the volume of a patch would be a target in none. A factor rather
        # than a second rule: nothing changes for objects that fit.
        size = box_size(self.boxes).clamp(min=1e-6)
        return (size.new_tensor(self.image.patch) / size).clamp(max=1).prod(dim=1)

    def to(self, device: torch.device | str) -> DeferredObjects:
        """Return the same sample on another device."""
        return self._each(lambda one: sent(one, device) if isinstance(one, Tensor) else one.to(device))

    def pin_memory(self) -> DeferredObjects:
        """Return the same sample in pinned memory, from which `to` copies while the host goes on."""
        return self._each(lambda one: one.pin_memory())

    def _each(self, of: Callable[[Any], Any]) -> DeferredObjects:
        """Return the sample with something done to all that holds voxels or boxes."""
        held = {one.name: getattr(self, one.name) for one in fields(self)}
        return replace(self, **{name: of(value) for name, value in held.items() if hasattr(value, "to")})


class ObjectCrops(Dataset[Any]):
    """Random crops with the objects in them, for training detectors.

    Item `position` is `(image (C, D, H, W) float32, Targets)`. A whole object keeps its box, moved as the image is. A
    cut or rotated object gets the hull of its visible part from the instance mask; where there is none, others hide a
    part of it there, or it is whole but no voxel falls on it, the moved box, cut. A point is a target where it lies in
    the crop. Ignore regions move as boxes do; what a crop shows of an object that is no target there becomes one.

    Args:
        order: which case is at a position; its seed is the seed of all random choices.
        reader: how crops are read; its sites say how many are placed on objects.
        balance_classes: crops on objects first choose a class of the whole set, each with the same chance, then a case
            that has one, instead of taking the cases in turn.
        min_visible: objects of which less than this share is inside the crop are no target: the share of its voxels
            where there is a mask and they were counted, else of its box. Of one that is longer than the crop it is this
            share of as much as a crop can hold.
        augment_on: with `device`, items are `DeferredObjects`, and `apply_deferred_objects` has to be called on the
            device.
        num_positions: length of the data set; the order never ends, so this is for samplers that ask.
        hard_negatives: false positives of an earlier detector, around which a share of the crops is placed that would
            be placed anywhere; like classes they are drawn of the whole set instead of taking the cases in turn.
    """

    def __init__(
        self,
        order: CaseOrder,
        reader: CropReader,
        balance_classes: bool = False,
        min_visible: float = 0.1,
        augment_on: AugmentOn = "workers",
        num_positions: int = 2**31,
        hard_negatives: HardNegatives | None = None,
    ) -> None:
        self.order = order
        self.reader = reader
        self.balance_classes = balance_classes
        self.min_visible = min_visible
        self.augment_on = augment_on
        self.num_positions = num_positions
        self.hard_negatives = hard_negatives

    def __len__(self) -> int:
        return self.num_positions

    def __getitem__(self, position: int) -> Any:
        random = generator_at(self.order.seed, position)
        ref, label, target = self.order.at(position), None, self.reader.crop_sampler.choose(random)
        negative: np.ndarray | None = None
        if target == "object" and self.balance_classes:
            ref, label = self.order.of_random_class(random) or (ref, None)
        elif target == "anywhere" and self.hard_negatives and random.random() < self.hard_negatives.share:
            ref, negative = self.hard_negatives.draw(random)
        case = ref.open()
        spatial_transform = self.reader.draw_placement(case, random)
        if negative is not None:
            start = box_start(negative, case.grid.shape, self.reader.patch, random, spatial_transform)
        elif label is None:
            start = self.reader.crop_sampler.locate(target, case, self.reader.patch, random, spatial_transform)
        else:
            start = object_start(case, self.reader.patch, random, label, spatial_transform)
        sample = read_objects(self.reader, case, start, spatial_transform, random, self.min_visible)
        return sample.apply() if self.augment_on == "workers" else sample

    def collate(self, samples: list[Any]) -> Any:
        """Return a batch; with `augment_on` device the samples as they are."""
        return collate_objects(samples) if self.augment_on == "workers" else samples


def read_objects(
    reader: CropReader,
    case: Case,
    start: Patch,
    spatial_transform: SpatialTransform,
    random: np.random.Generator,
    min_visible: float,
) -> DeferredObjects:
    """Read a crop and the objects around it.

    Args:
        reader: how crops are read.
        case: what to read of.
        start: first voxel of the crop.
        spatial_transform: how the crop is placed.
        random: draws the change of intensity, and the seed of whoever makes random choices later.
        min_visible: see `ObjectCrops`.
    """
    patch = reader.patch
    source_start, source_size = spatial_transform.source(start, patch)

    def carried(boxes: np.ndarray) -> np.ndarray:
        return place_boxes(boxes.astype(np.float64) - np.tile(source_start, 2), spatial_transform, patch, source_size)

    ignore = np.clip(carried(case.ignore_boxes), 0, np.tile(patch, 2))
    ignore = ignore[has_extent(ignore)]
    return DeferredObjects(
        image=reader.image(case, start, spatial_transform, random),
        boxes=torch.from_numpy(carried(case.boxes)),
        labels=torch.from_numpy(case.labels),
        ignore=torch.from_numpy(ignore.astype(np.float32)),
        instances=_instances(reader, case, start, spatial_transform) if case.has_mask else None,
        ids=torch.from_numpy(case.outline_ids),
        min_visible=min_visible,
        seed=torch.tensor(draw_seed(random)),
        num_voxels=_num_voxels(case, spatial_transform) if case.has_mask else None,
    )


def _instances(reader: CropReader, case: Case, start: Patch, spatial_transform: SpatialTransform) -> DeferredLabels:
    labels = reader.labels(case, start, spatial_transform)
    # Classes fit a byte, which is quicker to write and to send to a device; the loss widens it there.
    return replace(labels, value_of=labels.value_of.to(torch.uint8))


def _num_voxels(case: Case, spatial_transform: SpatialTransform) -> Tensor:
    """Return how many voxels each object has at the spacing of a patch: (N,) float64, 0 where nobody counted."""
    counts = np.array([one or 0 for one in case.object_voxels], dtype=np.float64)
    file_mm3, stored_mm3 = np.prod(case.source_grid.spacing_mm), np.prod(case.grid.spacing_mm)
    return torch.from_numpy(counts * (file_mm3 / stored_mm3 / abs(np.linalg.det(spatial_transform.matrix))))


def collate_objects(samples: list[tuple[Tensor, Targets]]) -> tuple[Tensor, list[Targets]]:
    """Return samples to a batch: images stacked (B, C, D, H, W), targets as a list."""
    images, targets = zip(*samples, strict=True)
    return torch.stack(images), list(targets)


def apply_deferred_objects(batch: Any) -> tuple[Tensor, list[Targets]]:
    """Return the batch that a detector gets, from one that reached its device; finished ones pass as they are."""
    if isinstance(batch, list) and batch and isinstance(batch[0], DeferredObjects):
        return collate_objects([sample.apply() for sample in batch])
    result: tuple[Tensor, list[Targets]] = batch
    return result
