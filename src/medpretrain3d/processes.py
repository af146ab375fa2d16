"""Reductions over the processes of a run, so that W of them with B samples step as one with W B samples.

DDP averages gradients over the processes. A loss that every process divides by a count of its own would then depend on
how samples were dealt out; `mean_over_samples` divides by the count of all, as DETR and FCOS do for their positives.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Return number of this process; 0 where there is only one."""
    return dist.get_rank() if _are_several() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if _are_several() else 1


def gather_rows(rows: Tensor) -> Tensor:
    """Return rows (n, C) of W processes as (W n, C), in the order of the ranks; every process has the same n.

    The gradient goes back to the process that made the row, summed over the losses of all. So, where each process takes
    the mean over its own rows and gradients are averaged, as DDP does, the step is that of one process with all rows.
    """
    gathered: Tensor = _GatherRows.apply(rows) if _are_several() else rows
    return gathered


def total(value: Tensor) -> Tensor:
    """Return sum of a tensor over the processes, with gradient.

    The gradient is that of a loss which every process computes alike from the sum, averaged over processes by DDP.
    """
    if not _are_several():
        return value
    summed = value.detach().clone()
    dist.all_reduce(summed)
    return summed + world_size() * (value - value.detach())


def mean_over_samples(summed: Tensor, count: Tensor | int, least: float = 1) -> Tensor:
    """Return this process's part of a mean over the samples of all: the mean of the parts is `sum / max(count, least)`.

    Args:
        summed: sum over what this process has, with gradient; any shape.
        count: how much that was, here, of one shape with `summed` if it is a tensor of counts.
        least: denominator where there is nothing, or next to nothing, on any process.
    """
    if isinstance(count, Tensor):
        counted = count.detach().to(summed.device, torch.float32, non_blocking=True)
    else:
        counted = torch.full((), count, dtype=torch.float32, device=summed.device)
    return summed * world_size() / total(counted).clamp(min=least)


def mean_over_processes(value: Tensor) -> Tensor:
    """Return mean of a tensor over the processes, without gradient."""
    return total(value.detach()) / world_size()


def largest(value: Tensor) -> Tensor:
    """Return each number of a tensor as it is on the process where it is largest, without gradient."""
    value = value.detach().clone()
    if _are_several():
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return value


def largest_count(count: int, device: torch.device) -> int:
    """Return the largest of the processes' counts; the host waits for `device` only where there are several."""
    return int(largest(torch.full((), count, device=device))) if _are_several() else count


def first_process(value: Tensor) -> Tensor:
    """Return the tensor that the first process has, without gradient; the same shape on all."""
    value = value.detach().clone()
    if _are_several():
        dist.broadcast(value, 0)
    return value


def among_lowest(values: Tensor, count: int) -> Tensor:
    """Return whether each value (n,) int64 of this process is among the `count` lowest of all processes: (n,) bool.

    `count` is the same on all; n need not be.
    """
    if not count:
        return torch.zeros_like(values, dtype=torch.bool)
    own = values.topk(min(count, len(values)), largest=False, sorted=False).values
    candidates = values.new_full((count,), torch.iinfo(torch.int64).max)
    candidates[: len(own)] = own
    return values <= gather_rows(candidates).kthvalue(count).values


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].clone()
        dist.all_reduce(summed)
        return summed.chunk(dist.get_world_size())[dist.get_rank()]


def _are_several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
