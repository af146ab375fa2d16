"""A training step on tensors without values: how many bytes are alive at once, and how much is computed.

On the `meta` device tensors have shapes and no memory, so that a step of any size is traced within seconds on any
machine: forward and backward pass, with what checkpointing computes again and what attention keeps.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from medpretrain3d.precision.mixed import DTYPES, autocast
from medpretrain3d.precision.names import Precision

META = torch.device("meta")
IN_HALF = {"conv1d", "conv2d", "conv3d", "conv_transpose2d", "conv_transpose3d", "linear", "matmul", "__matmul__"}
IN_HALF |= {"__rmatmul__", "bmm", "mm", "addmm", "baddbmm", "einsum"}
"""What autocast computes on a GPU in half precision, as far as networks here use it."""
IN_FP32 = {"layer_norm", "group_norm", "softmax", "log_softmax", "cross_entropy", "nll_loss", "mse_loss", "l1_loss"}
IN_FP32 |= {"binary_cross_entropy_with_logits", "smooth_l1_loss", "cosine_similarity", "norm", "vector_norm", "exp"}
IN_FP32 |= {"log", "pow", "rsqrt", "sum", "prod", "cumsum", "normalize"}
"""What it computes in fp32: of their inputs in half precision a copy is kept."""
ATTENTION = "scaled_dot_product_attention"


class TracedStep(NamedTuple):
    """What one process computes in a training step, and the most that it holds of it at once."""

    activation_bytes: int
    """The batch, what the backward pass needs, and gradients on their way; weights and their gradients left out."""
    flop: int
    """Of forward and backward pass; a multiplication with its addition counts as two."""


def trace_step(
    network: nn.Module, run: Callable[[], Tensor], batch: Iterable[Tensor], precision: Precision
) -> TracedStep:
    """Trace forward and backward pass.

    Args:
        network: on the meta device; its gradients are let go as soon as they are whole.
        run: from the batch to a loss.
        batch: tensors that lie on the device during the step.
        precision: that the network runs in.
    """
    let_go = [
        parameter.register_post_accumulate_grad_hook(_let_go)
        for parameter in network.parameters()
        if parameter.requires_grad
    ]
    traced = LiveMemory(META, network)
    try:
        with traced:
            for tensor in batch:
                traced.note(tensor)
            # The way back as well, for what checkpointing computes again; `Tensor.backward` would suspend the mode.
            with _as_on_gpu(precision):
                loss = run()
                gradient = torch.ones_like(loss)
                _engine_run_backward(
                    (loss,), (gradient,), False, False, (), allow_unreachable=True, accumulate_grad=True
                )
    finally:
        for handle in let_go:
            handle.remove()
    return TracedStep(traced.peak_bytes, traced.flop)


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of the tensors of a device that are alive, each storage once, and the most there ever were.

    Arithmetic is counted as PyTorch's `FlopCounterMode` does, which would itself hold what checkpointing lets go.

    Args:
        device: whose tensors are counted.
        network: whose weights and buffers are not.
    """

    def __init__(self, device: torch.device, network: nn.Module | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of PyTorch, whose constructor has no types
        self._device = device
        own = [*network.parameters(), *network.buffers()] if network is not None else []
        self._seen: dict[int, object] = {one.untyped_storage()._cdata: one for one in own}
        self.live_bytes = 0
        self.peak_bytes = 0
        self.flop = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and note what it made."""
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if count := flop_registry.get(func._overloadpacket):
            self.flop += count(*args, **kwargs, out_val=made)
        tree_map_only(Tensor, self.note, made)
        return made

    def note(self, tensor: Tensor) -> Tensor:
        """Count a tensor until nothing holds its memory any more."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if tensor.device.type == self._device.type and key not in self._seen:

            def forget(_: object) -> None:
                del self._seen[key]
                self.live_bytes -= size

            self._seen[key] = weakref.ref(storage, forget)  # PyTorch keeps the object as long as the memory
            self.live_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return tensor


class CastOnMeta(TorchFunctionMode):
    """Casts tensors without values as autocast does those of a GPU; a weight is cast once.

    Whether it is on, and to which type, is what autocast says of the CPU, which leaves such tensors alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._weights: dict[int, Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one of torch's functions; attention as the kernel that keeps no matrix."""
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if torch.is_autocast_enabled("cpu"):
            if name in IN_HALF or name == ATTENTION:
                half = torch.get_autocast_dtype("cpu")
                args, kwargs = tree_map_only(Tensor, lambda one: self._cast(one, half), (args, kwargs))
            elif name in IN_FP32:
                args, kwargs = tree_map_only(Tensor, lambda one: self._cast(one, torch.float32), (args, kwargs))
        if name == ATTENTION and args[0].is_meta and not kwargs and len(args) == 3:
            attended: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(*args, None, True)[0]
            return attended
        return func(*args, **kwargs)

    def _cast(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        if not tensor.is_meta or tensor.dtype not in (torch.float32, *DTYPES.values()) or tensor.dtype == dtype:
            return tensor
        if not (tensor.is_leaf and tensor.requires_grad and torch.is_grad_enabled()):
            return tensor.to(dtype)
        return self._weights.setdefault(id(tensor), tensor.to(dtype))


@contextmanager
def _as_on_gpu(precision: Precision) -> Iterator[None]:
    with autocast(torch.device("cpu"), precision), CastOnMeta():
        yield


def _let_go(parameter: Tensor) -> None:
    parameter.grad = None
