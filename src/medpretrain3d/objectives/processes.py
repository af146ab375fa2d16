"""Objectives on several processes: rows of all of them, with gradient; means over all of them, without."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Number of this process; 0 where there is only one."""
    return dist.get_rank() if _are_several() else 0


def gather_rows(rows: Tensor) -> Tensor:
    """Rows (n, C) of W processes as (W n, C), in the order of the ranks; every process has the same n.

    The gradient goes back to the process that made the row, summed over the losses of all. So, where each process takes
    the mean over its own rows and gradients are averaged, as DDP does, the step is that of one process with all rows.
    """
    gathered: Tensor = _GatherRows.apply(rows) if _are_several() else rows
    return gathered


def mean_over_processes(value: Tensor) -> Tensor:
    """Mean of a tensor over the processes, without gradient."""
    value = value.detach().clone()
    if _are_several():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def _are_several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
