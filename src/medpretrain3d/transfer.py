"""Copies of batches to a device that go on while the host does."""

from __future__ import annotations

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
