"""What the processes of a run tell each other."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only

Value = TypeVar("Value")


def gather_by_case(results: dict[str, Value]) -> dict[str, Value]:
    """Results of all processes, by case id and in the order of the ids; each process gets all of them.

    Metrics over whole volumes are computed on this union, so that they do not depend on the number of processes.
    """
    parts: list[dict[str, Value] | None] = [results]
    if dist.is_available() and dist.is_initialized():
        parts = [None] * dist.get_world_size()
        dist.all_gather_object(parts, results)
    merged = {case: value for part in parts if part is not None for case, value in part.items()}
    return dict(sorted(merged.items()))


@rank_zero_only
def say(text: str) -> None:
    """Print on the first process only."""
    print(text, flush=True)
