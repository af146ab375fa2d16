"""Copies to a device that go on while the host does, and from it by which the host waits as seldom as can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

Sent = TypeVar("Sent", Tensor, Tensor | None)


def sent(tensor: Sent, device: torch.device | str) -> Sent:
    """Return a tensor on a device; from pinned memory nobody waits for the copy, but to the CPU everybody does.

    Args:
        tensor: or None, which stays None.
        device: where it goes.
    """
    if tensor is None:
        return None
    return tensor.to(device, non_blocking=torch.device(device).type != "cpu")


def pinned(tensor: Sent) -> Sent:
    """Return a tensor in memory that a GPU can read by itself; None stays None."""
    return None if tensor is None else tensor.pin_memory()


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors on the CPU, without gradient, in their order: one copy brings all that are not there.

    The host waits once for the device, and not once for each tensor.

    Args:
        tensors: of any shapes and types; all that are not on the CPU are on one device.
    """
    away = [tensor.detach().contiguous() for tensor in tensors if tensor.device.type != "cpu"]
    if not away:
        return [tensor.detach() for tensor in tensors]
    packed = torch.cat([tensor.view(-1).view(torch.uint8) for tensor in away]).cpu()
    parts = packed.split([tensor.numel() * tensor.element_size() for tensor in away])
    # A part begins at any byte, numbers do not: hence the copy.
    arrived = iter([part.clone().view(like.dtype).view(like.shape) for part, like in zip(parts, away, strict=True)])
    return [tensor.detach() if tensor.device.type == "cpu" else next(arrived) for tensor in tensors]
