"""Whole volumes of validation and test, each process its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from finetune.dealing import dealt_out, most_cases
from medpretrain3d.store.corpus import CaseRef
from medpretrain3d.store.store import Case


def volume_loader(cases: Sequence[CaseRef], rank: int, world_size: int) -> DataLoader[Case | None] | list[Any]:
    """Return a loader of the cases of one process, one a turn; an empty list where there is none at all.

    Every process has as many turns as the one with most cases, since Lightning counts on it: None follows the last one.

    Args:
        cases: the same on every process.
        rank: of this process.
        world_size: number of processes.
    """
    if not cases:
        return []
    own = _Cases(dealt_out(cases, rank, world_size), most_cases(cases, world_size))
    return DataLoader(own, batch_size=None, collate_fn=_as_it_is, generator=torch.Generator())


class _Cases(Dataset[Case | None]):
    """Cases in order, None once there is none left; their voxels are read by whoever needs them."""

    def __init__(self, cases: list[CaseRef], num_turns: int) -> None:
        self.cases = cases
        self.num_turns = num_turns

    def __len__(self) -> int:
        return self.num_turns

    def __getitem__(self, index: int) -> Case | None:
        return self.cases[index].open() if index < len(self.cases) else None


def _as_it_is(case: Any) -> Any:
    return case
