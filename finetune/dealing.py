"""Whole volumes dealt out to the processes, so that all have about the same to do."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medpretrain3d.store.corpus import CaseRef


def dealt_out(cases: Sequence[CaseRef], rank: int, world_size: int) -> list[CaseRef]:
    """Return the cases of one process, in their order; those of all processes are all cases.

    The largest go first, each to the process with the fewest voxels so far (Graham, 1969: at most a third above the
    best that is possible).

    Args:
        cases: the same on every process.
        rank: of this process.
        world_size: number of processes.
    """
    return [cases[index] for index in sorted(deal([_num_voxels(ref) for ref in cases], world_size)[rank])]


def most_cases(cases: Sequence[CaseRef], world_size: int) -> int:
    """Return the number of cases of the process that has most."""
    return max(map(len, deal([_num_voxels(ref) for ref in cases], world_size)))


def deal(sizes: Sequence[int], num_hands: int) -> list[list[int]]:
    """Return for each hand the indices of what it is dealt."""
    hands: list[list[int]] = [[] for _ in range(num_hands)]
    loads = [0] * num_hands
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):  # equal ones in their order
        hand = min(range(num_hands), key=lambda one: (loads[one], len(hands[one])))
        hands[hand].append(index)
        loads[hand] += sizes[index]
    return hands


def _num_voxels(ref: CaseRef) -> int:
    return math.prod(ref.store.entries[ref.case_id]["shape"])
