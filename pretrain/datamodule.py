"""Crops of a corpus, prepared into stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from medpretrain3d.data.augment import SpatialAugment
from medpretrain3d.data.batches import PositionBatches
from medpretrain3d.data.corpus import Corpus
from medpretrain3d.data.crops import ImageCrops
from medpretrain3d.data.intensity import Normalisation, Window
from medpretrain3d.description import describe
from medpretrain3d.engine.loader import make_loader, run_position


class PretrainData(L.LightningDataModule):
    """Random crops for training, and the same few crops every time for validation.

    Args:
        store: a store written by `medpretrain3d prepare`, or several that are used together.
        patch: crop (D, H, W) in voxels.
        batch_size: crops per process and step.
        window: from stored intensities to the network's input: a window, or a z-score.
        augment: rotation, zoom, mirroring; reconstruction recipes use no intensity augmentation.
        num_val_cases: cases kept out of training, to see the loss on unseen volumes.
        split: which split of the stores to use; `all` for every case.
        num_workers: processes that read crops.
        seed: set by `seed_everything`.
    """

    def __init__(
        self,
        store: str | list[str],
        patch: tuple[int, int, int],
        batch_size: int,
        window: Normalisation = Window(),  # noqa: B008  immutable
        augment: SpatialAugment | None = None,
        num_val_cases: int = 4,
        split: str = "all",
        num_workers: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.corpus = Corpus([Path(path) for path in ([store] if isinstance(store, str) else store)])
        self.patch = patch
        self.batch_size = batch_size
        self.window = window
        self.augment = augment
        self.num_workers = num_workers
        self.seed = seed
        self.train_cases, self.val_cases = self.corpus.hold_out(split, num_val_cases)

    def facts(self) -> dict[str, Any]:
        """What a dashboard filters by."""
        return {
            "corpus": self.corpus.name,
            "num_pretrain_volumes": len(self.train_cases),
            "data_fingerprint": self.corpus.fingerprint,
        }

    def preprocessing(self) -> dict[str, Any]:
        """What fine-tuning has to do alike: spacing and window."""
        return {"spacing_mm": self.corpus.spacing_mm, "window": describe(self.window), "patch": self.patch}

    def train_dataloader(self) -> DataLoader[Any]:
        """All batches of the run, from the one the run continues with."""
        crops = ImageCrops(self.train_cases, self.patch, self.window, self.seed, self.augment)
        batches = PositionBatches(self.batch_size, **run_position(self.trainer))
        return make_loader(crops, batches, self.num_workers)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """One crop of every held-out case."""
        if not self.val_cases:
            return []
        crops = ImageCrops(self.val_cases, self.patch, self.window, self.seed)
        place = run_position(self.trainer)
        per_process = -(-len(self.val_cases) // place["world_size"])
        batches = PositionBatches(1, per_process, place["rank"], place["world_size"])
        return make_loader(crops, batches, num_workers=0)
