"""Data loaders that a run can continue in the middle of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from medpretrain3d.engine.workers import begin_worker


def make_loader(
    dataset: Dataset[Any],
    batches: Sampler[list[int]],
    num_workers: int,
    collate: Callable[[list[Any]], Any] | None = None,
    prefetch_factor: int = 2,
    device: torch.device | None = None,
) -> DataLoader[Any]:
    """Return a loader over the batches of a sampler, in their order.

    Args:
        dataset: of the samples at the positions.
        batches: hands out positions.
        num_workers: processes that read; 0 reads in this one.
        collate: makes a batch of samples.
        prefetch_factor: batches that each worker reads ahead.
        device: where batches go; for a GPU they are put into pinned memory, from which copies go on beside the host.
    """
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=collate,
        prefetch_factor=prefetch_factor if num_workers else None,
        pin_memory=device is not None and device.type == "cuda",
        persistent_workers=num_workers > 0,
        generator=torch.Generator(),  # which else is the global one: how often it was asked would depend on the sitting
        worker_init_fn=begin_worker,
    )


class RunPosition(TypedDict):
    """Position of this process in the run, as the arguments of a batch sampler."""

    num_batches: int
    rank: int
    world_size: int
    first_batch: int


def run_position(trainer: L.Trainer | None) -> RunPosition:
    """Return number of micro-batches per process in the whole run, and how many were trained on before this sitting.

    Both follow from the number of optimizer steps: the batches of a step that was interrupted are trained on again.
    """
    assert trainer is not None, "the data module belongs to a trainer"
    return {
        "num_batches": trainer.max_steps * trainer.accumulate_grad_batches,
        "rank": trainer.global_rank,
        "world_size": trainer.world_size,
        "first_batch": trainer.global_step * trainer.accumulate_grad_batches,
    }


def device_of(trainer: L.Trainer | None) -> torch.device:
    """Return the device of this process."""
    assert trainer is not None, "the data module belongs to a trainer"
    return trainer.strategy.root_device
