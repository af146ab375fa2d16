"""A device that is none: counts, on any CPU, what a GPU would compute and what the host would wait for.

Inside of a `CountingDevice` a tensor or module sent to `DEVICE` says that it is there, and so takes the ways of the
code that a GPU takes. Its numbers are computed on the CPU. What a GPU refuses (numpy, tensors of two devices in one
operation) is refused.

A *host wait* is an operation after which the host goes on only once the device has done all that it was told: it reads
a number (`item`, `tolist`, `bool`), the shape of a result depends on data (`nonzero`, a boolean index, `unique`), or it
copies in either direction without `non_blocking`. These are the operations that `torch.cuda.set_sync_debug_mode` warns
of. `CountingDevice` counts too many rather than too few of them.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, autocast
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

DEVICE = torch.device("lazy")
"""A kind of device that PyTorch knows and nothing here is registered for; autograd runs it in the calling thread."""

aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.nonzero_numpy,
    aten.masked_select,
    aten._unique,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.unique_dim_consecutive,
    aten.bincount,
    aten.equal,
    aten.allclose,
    aten._linalg_check_errors,
}
"""What waits whatever its arguments are."""
INDEXING = {aten.index, aten._unsafe_index, aten.index_put, aten.index_put_, aten._index_put_impl_}
ROOT = Path(__file__).resolve().parents[1]


class OnDevice(Tensor):
    """A tensor that is on `DEVICE`, as far as anybody can tell.

    Args:
        values: what it holds, on the CPU.
    """

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> OnDevice:
        with torch.inference_mode(False):  # where a view could not be told of what it views
            made: OnDevice = Tensor._make_wrapper_subclass(
                cls,
                values.shape,
                strides=values.stride(),
                storage_offset=values.storage_offset(),
                dtype=values.dtype,
                device=DEVICE,
                requires_grad=values.requires_grad,
            )
        made.values = values
        return made

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"OnDevice({self.values})"

    def tolist(self) -> Any:
        """Return the numbers, as `Tensor.tolist` does: by a copy to the CPU."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} of a tensor on {DEVICE} outside of its CountingDevice")


class CountingDevice(TorchDispatchMode):
    """Context in which `DEVICE` exists and what it does is counted.

    `waits` names each host wait by its operation and the line of this repository that asked for it, `backward` where
    autograd did; `num_kernels` counts the operations that compute something on the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.num_kernels = 0
        self._before: list[tuple[bool, Any]] = []

    def __enter__(self) -> CountingDevice:
        # `torch.tensor(..., device=DEVICE)` then is what it is on a GPU: a tensor on the CPU that is copied.
        self._before.append((torch._C._only_lift_cpu_tensors(), torch.autocast))
        torch._C._set_only_lift_cpu_tensors(True)
        torch.autocast = _autocast  # type: ignore[assignment, misc]
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        lifted_cpu_only, torch.autocast = self._before.pop()  # type: ignore[misc]
        torch._C._set_only_lift_cpu_tensors(lifted_cpu_only)

    def reset(self) -> None:
        """Count from here, once model and data are on the device and what a first step makes is made."""
        self.waits, self.num_kernels = [], 0

    @property
    def summary(self) -> str:
        """How often the host waits, and where, for the message of a test that fails."""
        lines = [f"{count} x {wait}" for wait, count in Counter(self.waits).most_common()]
        return "\n".join([f"{len(self.waits)} host waits, {self.num_kernels} kernels", *lines])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():  # where operations arrive that are made of others
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        tensors = list(_tensors((args, kwargs)))
        goes_to = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
        if goes_to != DEVICE.type and not any(isinstance(tensor, OnDevice) for tensor in tensors):
            return func(*args, **kwargs)
        self._count(func, tensors, args, kwargs)
        if goes_to == DEVICE.type:
            kwargs = kwargs | {"device": torch.device("cpu")}
        values = func(*_mapped(_values, args), **_mapped(_values, kwargs))
        if func.overloadpacket is aten.copy_:
            return args[0]
        if goes_to is not None:
            values = _apart(values, tensors)
        if goes_to not in (None, DEVICE.type):
            return values
        result = _mapped(OnDevice, values)
        if torch.is_inference_mode_enabled():  # which tracks no views
            return args[0] if func._schema.is_mutable else result
        return return_and_correct_aliasing(func, args, kwargs, result)

    def _count(self, func: Any, tensors: list[Tensor], args: Any, kwargs: Any) -> None:
        packet = func.overloadpacket
        on_host = [tensor for tensor in tensors if not isinstance(tensor, OnDevice)]
        is_waiting = packet in WAITING
        if packet in (aten._to_copy, aten.copy_):
            to_host = packet is aten._to_copy and torch.device(kwargs.get("device") or DEVICE).type != DEVICE.type
            blocks = not (kwargs.get("non_blocking") or (packet is aten.copy_ and len(args) > 2 and args[2]))
            is_waiting = blocks and bool(on_host or to_host)
        elif packet in INDEXING:
            indices = [index for index in args[1] if index is not None]
            is_waiting = any(
                index.dtype in (torch.bool, torch.uint8) or not isinstance(index, OnDevice) for index in indices
            )
        elif packet is aten.repeat_interleave:
            is_waiting = isinstance(args[-1], Tensor) and kwargs.get("output_size") is None
        elif any(tensor.dim() for tensor in on_host):
            raise RuntimeError(f"{func}: tensors on the CPU and on {DEVICE}; a GPU would refuse them")
        if is_waiting:
            self.waits.append(f"{packet.__name__} {_asking_line()}")
        if not func.is_view and packet is not aten._local_scalar_dense:
            self.num_kernels += 1


def _tensors(tree: Any) -> Iterator[Tensor]:
    """Yield the tensors of an operation's arguments; PyTorch's pytree takes ten times as long."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, list | tuple):
        for part in tree:
            yield from _tensors(part)
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))


def _mapped(change: Callable[[Tensor], Tensor], tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, list | tuple):
        return type(tree)([_mapped(change, part) for part in tree])
    if isinstance(tree, dict):
        return {key: _mapped(change, part) for key, part in tree.items()}
    return tree


def _autocast(device_type: str, *args: Any, **options: Any) -> AbstractContextManager[Any]:
    """Stand for `torch.autocast`, which knows no `DEVICE`: nothing is cast there."""
    return nullcontext() if device_type == DEVICE.type else autocast(device_type, *args, **options)


def _values(tensor: Tensor) -> Tensor:
    return tensor.values if isinstance(tensor, OnDevice) else tensor


def _apart(values: Tensor, tensors: list[Tensor]) -> Tensor:
    """Return values that share no memory with what was copied."""
    return values.clone() if any(values.data_ptr() == _values(tensor).data_ptr() for tensor in tensors) else values


def _asking_line() -> str:
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if "torch/autograd/graph.py" in path.as_posix():
            return "backward"
        if path != Path(__file__) and path.is_relative_to(ROOT) and "site-packages" not in path.parts:
            return f"{path.relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"
