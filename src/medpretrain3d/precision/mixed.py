"""The context in which networks run in a precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from medpretrain3d.precision.names import TrainingPrecision, training_precision_name

DTYPES: dict[TrainingPrecision, torch.dtype] = {
    "bf16-mixed": torch.bfloat16,
    "bf16-true": torch.bfloat16,
    "16-mixed": torch.float16,
}
SHORT = 2
"""Cells of an axis up to which convolutions on the CPU are left in fp32, whatever their kernel."""
CONVOLUTIONS = ("conv2d", "conv3d", "conv_transpose3d")
WEIGHT_OF_NORM = {"layer_norm": 2, "group_norm": 2, "batch_norm": 3, "instance_norm": 3}
"""Which of the arguments of each norm its weight is."""
LENGTHS = ("norm", "vector_norm", "linalg_vector_norm")
"""Lengths of vectors, as global response normalization (ConvNeXt V2) is made of."""


@contextmanager
def autocast(device: torch.device, precision: TrainingPrecision, cache_enabled: bool = True) -> Iterator[None]:
    """Context in which networks run in a precision, whatever was on outside of it.

    Args:
        device: where they run.
        precision: fp32 computes everything as it is.
        cache_enabled: whether a weight that is used twice is cast once.

    Raises:
        UserError: no name of a precision; see `precision_name`.
    """
    dtype = DTYPES.get(training_precision_name(precision))
    if not torch.amp.is_autocast_available(device.type):
        yield
        return
    with torch.autocast(device.type, dtype, enabled=dtype is not None, cache_enabled=cache_enabled):
        if dtype is None or device.type != "cpu":
            yield
            return
        with KeptInFP32():
            yield


def in_fp32(device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which nothing is cast, for what half of the bits would spoil: coordinates, similarities.

    Args:
        device: of the tensors; one that autocast does not know, such as `meta`, follows the CPU's.
    """
    return torch.autocast(device.type if torch.amp.is_autocast_available(device.type) else "cpu", enabled=False)


class KeptInFP32(TorchFunctionMode):
    """Keeps on the CPU in fp32 what autocast leaves to bf16 there and must not.

    What convolutions and norms return has the usual type, lengths are fp32, as on a GPU.

    Convolutions of maps that are shorter along an axis than their kernel, or one or two cells long: oneDNN's bf16
    gradients of their weights read and write beyond their memory on processors with AVX512 (torch 2.14), and so are
    random numbers, NaN at times, or end the process. Such maps are the coarsest of small patches, which cost nothing.

    Norms without weights, whose statistics are otherwise rounded to bf16; those with weights, and all on GPUs, have
    them in fp32.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one of torch's functions."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        is_kept = name in CONVOLUTIONS or name in WEIGHT_OF_NORM or name in LENGTHS
        if not is_kept or not torch.is_autocast_enabled("cpu") or not _is_kept(name, args, kwargs):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            found: Tensor = func(*map(_in_fp32, args), **{key: _in_fp32(value) for key, value in kwargs.items()})
        if name in LENGTHS:
            return found
        return found.to(torch.get_autocast_dtype("cpu") if name in CONVOLUTIONS else _input(args, kwargs).dtype)


def _is_kept(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    if name in LENGTHS:
        return True
    if name in CONVOLUTIONS:
        kernel = _argument(1, "weight", args, kwargs).shape[2:]
        lengths = _input(args, kwargs).shape[-len(kernel) :]
        return min(lengths) <= SHORT or any(length < width for length, width in zip(lengths, kernel, strict=True))
    place = WEIGHT_OF_NORM[name]
    return (args[place] if len(args) > place else kwargs.get("weight")) is None


def _input(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    return _argument(0, "input", args, kwargs)


def _argument(place: int, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    found: Tensor = args[place] if len(args) > place else kwargs[name]
    return found


def _in_fp32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value
