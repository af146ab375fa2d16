"""Crops of a corpus, prepared into stores."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from medpretrain3d.configurable import to_config
from medpretrain3d.engine.distributed import rank_zero_print
from medpretrain3d.engine.loader import device_of, make_loader, run_position
from medpretrain3d.engine.validations import limited
from medpretrain3d.errors import UserError
from medpretrain3d.loading.augment import IntensityAugment, SpatialAugment
from medpretrain3d.loading.batches import PositionBatches
from medpretrain3d.loading.crops import AugmentOn, CropReader
from medpretrain3d.loading.image_crops import ImageCrops, apply_deferred
from medpretrain3d.loading.sampling import CaseOrder, CropSampler
from medpretrain3d.loading.used_cases import cases_fingerprint
from medpretrain3d.loading.views import OneView, Views
from medpretrain3d.memory import check_batch
from medpretrain3d.objectives.base import with_host_copies
from medpretrain3d.run_metadata import RunMetadata
from medpretrain3d.store.corpus import CaseRef, Corpus, joined_fingerprint
from medpretrain3d.store.intensity import PerUnit
from medpretrain3d.store.left_right import mirrored_sides
from medpretrain3d.store.normalization import Normalization
from medpretrain3d.store.preprocessing import Preprocessing, StoreWindow
from medpretrain3d.store.store import Store
from medpretrain3d.store.training_cases import training_cases
from medpretrain3d.values import Checked, Count, Seed, Share, Sizes, Whole, Workers


class PretrainData(Checked, L.LightningDataModule):
    """Random crops for training, and the same few crops every time for validation.

    Args:
        store: a store written by `medpretrain3d prepare`, or several that are used together.
        patch: crop (D, H, W) in voxels.
        batch_size: crops per process and step.
        window: from stored intensities to the network's input, for all stores; when absent each store has its own,
            `Window()` where it is in HU and `ZScore()` where it is not. `PerUnit` gives one for either kind.
        views: what the objective asks to see of each sample; one crop by default.
        augment: rotation, zoom, mirroring.
        intensity: noise, blur, brightness, contrast, gamma; reconstruction recipes use none.
        crop_sampler: where crops are placed; anywhere by default.
        dataset_balance: 0 shows every case alike, 0.5 cases of a store of n with 1/sqrt(n), 1 every store alike.
        augment_on: `workers` transforms crops where they are read, `device` where the network trains.
        num_val_cases: cases kept out of training, to see the loss on unseen volumes.
        split: which split of the stores to use; when absent every case, labelled or not, that is neither tested nor
            validated on. `all` takes test cases too, and says so.
        fold: of the stores that have folds: which one will be fine-tuned, and so validates and tests.
        exclude: stores of what will be detected later: scans that they test or validate on are not trained on, under
            whatever name and at whatever spacing they are in the corpus.
        stage_to: folder on a disk of the node, to which the stores are copied first, once for all processes there.
        num_workers: processes that read crops.
        prefetch_factor: batches that each of them reads ahead.
        seed: set by `seed_everything`.

    Raises:
        UserError: nothing to train on, in all or among the cases that have the labels that the views show.
    """

    def __init__(
        self,
        store: str | list[str],
        patch: Sizes,
        batch_size: Count,
        window: Normalization | None = None,
        views: Views | None = None,
        augment: SpatialAugment | None = None,
        intensity: IntensityAugment | None = None,
        crop_sampler: CropSampler = CropSampler(),  # noqa: B008  immutable
        dataset_balance: Share = 0.0,
        augment_on: AugmentOn = "workers",
        num_val_cases: Whole = 4,
        split: str | None = None,
        fold: Whole | None = None,
        exclude: list[str] | None = None,
        stage_to: str | None = None,
        num_workers: Workers = 1,
        prefetch_factor: Count = 2,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        check_batch(patch, batch_size)
        self.corpus = Corpus([store] if isinstance(store, str) else store, stage_to)
        self.patch = patch
        self.batch_size = batch_size
        self.window = window or PerUnit()
        for doubt in self.corpus.doubts_about(self.window):
            rank_zero_print(doubt)
        self.views = views or OneView()
        self.augment = augment
        self.intensity = intensity
        self.crop_sampler = crop_sampler
        self.dataset_balance = dataset_balance
        self.augment_on: AugmentOn = augment_on
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor
        self.seed = seed
        self.excluded = [Store(path) for path in exclude or ()]
        chosen = training_cases(self.corpus, split, fold, self.excluded)
        for note in chosen.notes:
            rank_zero_print(note)
        train_cases, val_cases = self.corpus.hold_out(chosen.cases, num_val_cases)
        if num_related := len(chosen.cases) - len(train_cases) - len(val_cases):
            rank_zero_print(
                f"{self.corpus.name}: {num_related} cases are copies of a validation case or of its patient and are "
                "not trained on"
            )
        self.views.check_cases(self.corpus.cases("all"))
        self.train_cases, self.val_cases = self._with_labels(train_cases), self._with_labels(val_cases)
        if not self.train_cases:
            raise UserError(f"{self.corpus.name}: none of its {len(train_cases)} training cases has labels to show")
        mirror_axes = augment.mirror_axes if augment is not None else ()
        for exchanged in filter(None, (mirrored_sides(of_store, mirror_axes) for of_store in self.classes)):
            rank_zero_print(f"warning: data.augment: {exchanged}")

    @property
    def classes(self) -> tuple[tuple[str, ...], ...]:
        """Class names of the labels, of each dataset on its own: the outputs of a supervised objective."""
        return self.views.classes(self.corpus)

    @property
    def num_val_batches(self) -> int:
        """Batches of a whole validation, of one process."""
        return -(-len(self.val_cases) // self.batch_size)

    def metadata(self) -> RunMetadata:
        """Return which scans the run is trained on."""
        return RunMetadata(
            corpus=self.corpus.name,
            num_pretrain_volumes=len(self.train_cases),
            data_fingerprint=self.corpus.fingerprint,
            cases_fingerprint=cases_fingerprint({"train": self.train_cases, "val": self.val_cases}),
            views_fingerprint=self.views.fingerprint,
            exclude_fingerprint=joined_fingerprint(self.excluded) if self.excluded else None,
        )

    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing that fine-tuning has to reproduce: spacing and window, in all and of each store."""
        own = [self.window.of_unit(unit) for unit in self.corpus.units]
        stores = tuple(
            StoreWindow(store=store.path.name, unit=store.unit, window=to_config(window))
            for store, window in zip(self.corpus.stores, own, strict=True)
        )
        window = own[0] if all(one["window"] == stores[0]["window"] for one in stores) else self.window
        num_channels = self.train_cases[0].open().num_channels
        return Preprocessing(self.patch, self.corpus.spacing_mm, window, num_channels, self.corpus.units[0], stores)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return all batches of the run, from the one the run continues with."""
        reader = CropReader(self.patch, self.window, self.augment, self.intensity, self.crop_sampler)
        order = CaseOrder(self.train_cases, self.seed, self.dataset_balance)
        crops = ImageCrops(order, reader, self.views, self.augment_on)
        batches = PositionBatches(self.batch_size, **run_position(self.trainer))
        return make_loader(
            crops, batches, self.num_workers, crops.collate, self.prefetch_factor, device_of(self.trainer)
        )

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return a crop of every held-out case, in batches as in training: a contrast takes several crops."""
        place = run_position(self.trainer)
        assert self.trainer is not None
        num_batches = -(-limited(self.num_val_batches, self.trainer.limit_val_batches) // place["world_size"])
        if not num_batches:
            return []
        reader = CropReader(self.patch, self.window, crop_sampler=self.crop_sampler)
        crops = ImageCrops(CaseOrder(self.val_cases, self.seed), reader, self.views)
        batches = PositionBatches(self.batch_size, num_batches, place["rank"], place["world_size"])
        return make_loader(crops, batches, 0, crops.collate, device=device_of(self.trainer))

    def _with_labels(self, cases: list[CaseRef]) -> list[CaseRef]:
        """Return the cases to show: all, unless the views leave out those without labels."""
        if self.views.unlabeled != "skip":
            return cases
        kept = [case for case in cases if self.views.is_labeled(case)]
        if len(kept) < len(cases):
            rank_zero_print(f"{len(cases) - len(kept)} of {len(cases)} cases have no labels and are left out")
        return kept

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Send a batch to the device; what objectives decide by stays on the CPU too, so that they wait for nothing."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        if isinstance(batch, list):  # samples whose crops are finished there
            return [with_host_copies(*pair) for pair in zip(moved, batch, strict=True)]
        return with_host_copies(moved, batch)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Finish the batch's crops on the device."""
        return apply_deferred(batch, self.views)
