"""Crops with objects for training, whole volumes for validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Sampler

from finetune.hard_negatives import HardNegativesFile
from finetune.preprocessing import compare_spacing
from finetune.training_objects import training_object_notes
from finetune.unlabeled_scans import UnlabeledScans
from finetune.volume_loader import volume_loader
from medpretrain3d.engine.distributed import rank_zero_print
from medpretrain3d.engine.loader import device_of, make_loader, run_position
from medpretrain3d.engine.validations import limited
from medpretrain3d.errors import UserError
from medpretrain3d.loading.augment import IntensityAugment, SpatialAugment
from medpretrain3d.loading.batches import PositionBatches
from medpretrain3d.loading.crops import AugmentOn, CropReader
from medpretrain3d.loading.object_crops import ObjectCrops, apply_deferred_objects
from medpretrain3d.loading.sampling import CaseOrder, CropSampler
from medpretrain3d.loading.unlabeled_crops import BothCrops, SideBySide, apply_deferred_unlabeled
from medpretrain3d.loading.used_cases import cases_fingerprint
from medpretrain3d.memory import check_batch
from medpretrain3d.run_metadata import RunMetadata
from medpretrain3d.store.corpus import CaseRef, Corpus
from medpretrain3d.store.intensity import PerUnit
from medpretrain3d.store.left_right import mirrored_sides
from medpretrain3d.store.normalization import Normalization
from medpretrain3d.store.points import count_points
from medpretrain3d.store.preprocessing import Preprocessing
from medpretrain3d.store.split_notes import split_notes
from medpretrain3d.store.splits import fraction_count, label_budget
from medpretrain3d.store.stratify import seeded_label_order
from medpretrain3d.values import Checked, Count, Positive, PositiveShare, Seed, Share, Sizes, Whole, Workers


class FinetuneData(Checked, L.LightningDataModule):
    """A labelled store, split into train, val and test.

    Args:
        store: a store written by `medpretrain3d prepare`.
        patch: crop (D, H, W) in voxels, also the tile of whole-volume inference.
        batch_size: crops per process and step.
        window: from stored intensities to the network's input; when absent that of the encoder's pretraining, or by
            unit. That is of the encoder that `model.init_from` names; else `Window()` for HU and `ZScore()` for others.
        pretrained_spacing_mm: of the scans that the encoder was pretrained on; when absent that which its file states.
        augment: rotation, zoom, mirroring.
        intensity: noise, blur, brightness, contrast, gamma.
        object_share: share of crops placed on an object.
        foreground_share: share of crops placed on tissue. What is left of both is placed anywhere.
        balance_classes: crops on objects show every class alike, however rare.
        hard_negatives: predictions.json of `medpretrain3d cross-validate`, whose false positives attract crops. Those
            are what an earlier detector took for an object in the training cases, none of which it was trained on.
        hard_negative_share: share of crops placed there. When absent half of what objects and foreground leave.
        augment_on: `workers` transforms crops where they are read, `device` where the network trains.
        fold: one of the store's folds; None takes its named splits.
        test_on: the `test` cases, or those that the fold has `held_out`. Those are its own test cases, or where it has
            none its validation cases, so that over all folds every labelled case is tested once.
        label_fraction: label budget, a share of the training cases. Smaller budgets are part of larger ones.
        num_train_cases: or as a number of cases.
        unlabeled: stores of scans that `model.semi_supervised` learns from without labels. The labeled store may be
            among them. None of the scans is a test or validation case, by scan, patient and name.
        unlabeled_batch_size: their crops per process and step. When absent as many as labeled ones.
        unlabeled_split: of these stores. When absent every case that they neither test nor validate on; `all` takes
            those, and test and validation cases of this run too, and says so.
        label_seed: draws which cases a label budget holds; None takes the store's order. Stratified, and smaller
            budgets in larger ones.
        stage_to: folder on a disk of the node, to which the stores are copied first. Once for all processes there.
        num_workers: processes that read crops.
        prefetch_factor: batches that each of them reads ahead.
        seed: set by `seed_everything`.

    Raises:
        UserError: the store holds no classes, a split or fold without cases, or fewer training cases than
            asked for.
    """

    def __init__(
        self,
        store: str,
        patch: Sizes,
        batch_size: Count,
        window: Normalization | None = None,
        pretrained_spacing_mm: tuple[Positive, Positive, Positive] | None = None,
        augment: SpatialAugment | None = None,
        intensity: IntensityAugment | None = None,
        object_share: Share = 0.5,
        foreground_share: Share = 0.0,
        balance_classes: bool = False,
        hard_negatives: str | None = None,
        hard_negative_share: PositiveShare | None = None,
        augment_on: AugmentOn = "workers",
        fold: Whole | None = None,
        test_on: Literal["test", "held_out"] = "test",
        label_fraction: PositiveShare = 1.0,
        num_train_cases: Count | None = None,
        unlabeled: str | list[str] | None = None,
        unlabeled_batch_size: Count | None = None,
        unlabeled_split: str | None = None,
        label_seed: Seed | None = None,
        stage_to: str | None = None,
        num_workers: Workers = 1,
        prefetch_factor: Count = 2,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        check_batch(patch, batch_size)
        self.corpus = Corpus([store], stage_to)
        self.store = self.corpus.stores[0]
        self.classes = self.store.classes
        if not self.classes:
            raise UserError(f"{store}: holds no classes, so nothing to detect; prepare a labelled data set")
        self.patch = patch
        self.batch_size = batch_size
        self.window = (window or PerUnit()).of_unit(self.store.unit)
        for doubt in self.corpus.doubts_about(self.window):
            rank_zero_print(doubt)
        self.augment = augment
        self.intensity = intensity
        self.crop_sampler = CropSampler(object_share, foreground_share)
        self.balance_classes = balance_classes
        self.augment_on: AugmentOn = augment_on
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor
        self.seed = seed
        self.fold = fold
        self.split = self.store.all_splits.fold(fold)
        train = [case.case_id for case in self._cases("train")]
        num_labeled = _num_labeled(len(train), label_fraction, num_train_cases)
        order = self.store.all_splits.label_order
        if label_seed is not None and num_labeled < len(train):
            order = seeded_label_order(self.store, train, label_seed)
        self.train_cases = self._refs(label_budget(train, order, num_labeled))
        self.label_fraction = num_labeled / len(train)
        self.hard_negatives: HardNegativesFile | None = None
        if hard_negatives:
            self.hard_negatives = HardNegativesFile.read(
                hard_negatives, hard_negative_share, self.crop_sampler, self.store, self.train_cases
            )
            rank_zero_print(f"{hard_negatives}: {self.hard_negatives.hard_negatives}")
        elif hard_negative_share is not None:
            raise UserError(
                f"data.hard_negative_share {hard_negative_share}: there are no hard negatives; name their file in "
                "data.hard_negatives"
            )
        self.window.fitted_to(self.train_cases[0].open())  # before any time is spent: were its statistics measured?
        if pretrained_spacing_mm is not None:
            compare_spacing(self.corpus.spacing_mm, pretrained_spacing_mm, rank_zero_print, rank_zero_warn)
        self.val_cases = self._refs(self.split.get("val", ()))
        if not self.val_cases:
            rank_zero_print(
                f"warning: {self.store.place}: no validation case; nothing is measured while training, and "
                "nothing tuned"
            )
        for note in training_object_notes(self.store, self.split, self.train_cases, self.patch):
            rank_zero_print(note)
        if augment is not None and (exchanged := mirrored_sides(self.classes, augment.mirror_axes)):
            rank_zero_print(f"warning: data.augment: {exchanged}")
        if test_on == "held_out":
            if fold is None:
                raise UserError("data.test_on held_out: is of a fold, got data.fold null; set data.fold")
            self.split = {**self.split, "test": self.store.all_splits.held_out_of(fold)}
        self.test_cases = self._refs(self.split.get("test", ()))
        if not self.test_cases:
            rank_zero_print(
                f"warning: {self.store.place}: no test case; the run ends without a test. Name some in the split "
                "'test', or test those that a fold holds out: data.fold 0 and data.test_on held_out"
            )
        for note in split_notes(self.store, fold):
            rank_zero_print(note)
        self.unlabeled: UnlabeledScans | None = None
        self.unlabeled_batch_size = unlabeled_batch_size or batch_size
        if unlabeled:
            stores = [unlabeled] if isinstance(unlabeled, str) else unlabeled
            held = [*self.val_cases, *self.test_cases]
            self.unlabeled = UnlabeledScans(stores, unlabeled_split, stage_to, self.store, fold, held)
            check_batch(patch, batch_size + self.unlabeled_batch_size)
        elif unlabeled_batch_size or unlabeled_split:
            raise UserError(
                "data.unlabeled_batch_size, data.unlabeled_split: say how data.unlabeled is read; name a store there"
            )

    @property
    def num_val_batches(self) -> int:
        """Volumes of a whole validation."""
        return len(self.val_cases)

    @property
    def validated_cases(self) -> list[CaseRef]:
        """What a validation looks at: the first of `val_cases` up to the limit, on however many processes."""
        assert self.trainer is not None, "the data module belongs to a trainer"
        return self.val_cases[: limited(self.num_val_batches, self.trainer.limit_val_batches)]

    @cached_property
    def num_points(self) -> int:
        """Objects of the training, validation and test cases that are points, without a size."""
        return self._marks[0]

    @cached_property
    def num_objects(self) -> int:
        """Objects of these cases."""
        return self._marks[1]

    @cached_property
    def _marks(self) -> tuple[int, int]:
        cases = {ref.case_id: ref for ref in (*self.train_cases, *self.val_cases, *self.test_cases)}
        return count_points(ref.open().boxes for ref in cases.values() if sum(ref.counts))

    def metadata(self) -> RunMetadata:
        """Return which cases the run is trained on."""
        unlabeled = self.unlabeled.metadata() if self.unlabeled else RunMetadata()
        cases = {"train": self.train_cases, "val": self.val_cases, "test": self.test_cases}
        cases |= {"unlabeled": self.unlabeled.cases} if self.unlabeled else {}
        return unlabeled | RunMetadata(
            dataset=self.corpus.name,
            fold=self.fold,
            label_fraction=round(self.label_fraction, 4),
            num_train_cases=len(self.train_cases),
            data_fingerprint=self.corpus.fingerprint,
            cases_fingerprint=cases_fingerprint(cases),
            hard_negatives_sha256=None if self.hard_negatives is None else self.hard_negatives.sha256,
        )

    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing that prediction has to reproduce."""
        num_channels = self.train_cases[0].open().num_channels
        return Preprocessing(self.patch, self.corpus.spacing_mm, self.window, num_channels, self.store.unit)

    def reader(self) -> CropReader:
        """Return how crops are read for training."""
        return CropReader(self.patch, self.window, self.augment, self.intensity, self.crop_sampler)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return all batches of the run, from the one the run continues with."""
        reader = self.reader()
        order = CaseOrder(self.train_cases, self.seed)
        place = run_position(self.trainer)
        negatives = None if self.hard_negatives is None else self.hard_negatives.hard_negatives
        labeled = ObjectCrops(order, reader, self.balance_classes, augment_on=self.augment_on, hard_negatives=negatives)
        crops: ObjectCrops | BothCrops = labeled
        own = PositionBatches(self.batch_size, **place)
        batches: Sampler[list[int]] = own
        if self.unlabeled is not None:
            # Nobody knows where their objects are: crops that would be on one go to tissue.
            on_tissue = self.crop_sampler.object_share + self.crop_sampler.foreground_share
            reader = replace(reader, crop_sampler=CropSampler(foreground_share=on_tissue))
            crops = BothCrops(labeled, self.unlabeled.crops(reader, self.seed, self.augment_on), self.batch_size)
            batches = SideBySide(own, PositionBatches(self.unlabeled_batch_size, **place), crops.offset)
        return make_loader(
            crops, batches, self.num_workers, crops.collate, self.prefetch_factor, device_of(self.trainer)
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Finish the batch's crops on the device; those without labels are its last part."""
        if self.unlabeled is None or self.trainer is None or not self.trainer.training:
            return apply_deferred_objects(batch)
        labeled, unlabeled = batch
        return (*apply_deferred_objects(labeled), apply_deferred_unlabeled(unlabeled))

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return whole validation volumes, dealt out to the processes."""
        return self._volumes(self.validated_cases)

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return whole test volumes, dealt out to the processes."""
        return self._volumes(self.test_cases)

    def _refs(self, case_ids: Sequence[str]) -> list[CaseRef]:
        return [CaseRef(self.store, case_id) for case_id in case_ids]

    def _cases(self, split: str) -> list[CaseRef]:
        case_ids = self.split.get(split, ())
        if not case_ids:
            known = ", ".join(name for name, ids in self.split.items() if ids)
            raise UserError(
                f"split '{split}' has no case in {self.corpus.name}; splits with cases: {known}; "
                f"write folds with `medpretrain3d split {self.store.place}` and set data.fold"
            )
        return self._refs(case_ids)

    def _volumes(self, cases: list[CaseRef]) -> DataLoader[Any] | list[Any]:
        place = run_position(self.trainer)
        return volume_loader(cases, place["rank"], place["world_size"])


def _num_labeled(num_cases: int, fraction: float, count: int | None) -> int:
    if count is None:
        return fraction_count(num_cases, fraction)
    if fraction != 1:
        raise UserError(f"data.label_fraction {fraction} and data.num_train_cases {count}: give one of them")
    return count
