"""Whether weights are numbers: those of a run that diverged are neither written nor read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from medpretrain3d.errors import UserError


def require_finite(whose: str, weights: Mapping[str, Any], advice: str) -> None:
    """Refuse weights of which any is infinite or not a number.

    Args:
        whose: what holds them, such as the path of a file; the message begins with it.
        weights: tensors by name, in mappings and lists of any depth; what is no tensor is passed over.
        advice: what to do, at the end of the message.

    Raises:
        UserError: names the first tensor.
    """
    faults = [name for name, tensor in _tensors("", weights) if not is_finite(tensor)]
    if faults:
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise UserError(f"{whose}: tensor {faults[0]}{more} holds values that are not finite; {advice}")


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
        return
    parts: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, Mapping):
        parts = iter(value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        parts = enumerate(value)
    for key, part in parts:
        yield from _tensors(f"{name}.{key}" if name else str(key), part)


def is_finite(tensor: Tensor) -> bool:
    """Return whether no value is NaN or infinite, without a copy of its size: a sum is not finite if one value is not.

    A sum of finite values that overflows is looked at value by value. Whole numbers are finite.
    """
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    total = tensor.abs().sum() if tensor.is_complex() else tensor.sum(dtype=torch.float64)
    return bool(total.isfinite()) or bool(tensor.isfinite().all())
