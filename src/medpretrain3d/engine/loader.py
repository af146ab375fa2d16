"""Data loaders that a run can continue in the middle of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset, Sampler


def make_loader(
    dataset: Dataset[Any],
    batches: Sampler[list[int]],
    num_workers: int,
    collate: Callable[[list[Any]], Any] | None = None,
) -> DataLoader[Any]:
    """A loader over the batches of a sampler, in their order."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
    )


def batches_done(trainer: L.Trainer) -> int:
    """Micro-batches that this run has trained on before; above 0 when it continues from a checkpoint."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.current.ready)
