"""Memory estimate of training, from the network alone: no GPU, no arithmetic.

The network is traced on the meta device, where tensors have shapes and no values. Counted are, in 4 bytes each:

- every parameter four times: weight, gradient, and the two moments of Adam (SGD keeps one);
- every activation that automatic differentiation keeps for the way back, once however often it is used;
- twice the largest of them, for gradients on their way;
- and 1 GiB for the context and workspaces of the device.

The count is taken to hold under mixed precision as well: convolutions then keep half the bytes, but norms are computed
in fp32 and keep a copy of their own. It has been compared with what PyTorch allocates on the CPU (within 10 %), not
with a GPU; losses and matching are not part of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

GIB = 1024**3
RESERVE_GIB = 1.0
STATES_PER_PARAMETER = 4


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that do not depend on the batch, and bytes of each sample."""

    fixed: int
    per_sample: int

    def gib(self, batch_size: int) -> float:
        """Return the memory of a batch in GiB, the reserve included."""
        return RESERVE_GIB + (self.fixed + batch_size * self.per_sample) / GIB

    def largest_batch(self, memory_gib: float) -> int:
        """Return samples that fit; 0 where none does."""
        return max(0, int(((memory_gib - RESERVE_GIB) * GIB - self.fixed) // self.per_sample))


def estimate_memory(
    make_network: Callable[[], nn.Module], forward: Callable[[nn.Module, Tensor], object], image_shape: tuple[int, ...]
) -> MemoryEstimate:
    """Trace a network on the meta device.

    Args:
        make_network: builds it; called with the meta device as default.
        forward: what a training step runs; its outputs are counted as they go on into the loss.
        image_shape: (C, D, H, W) of one sample.
    """
    with torch.device("meta"):
        network = make_network()
        saved = saved_bytes(network, lambda: forward(network, torch.empty(1, *image_shape)))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    # Parameters are the same for any batch, activations come with each sample.
    return MemoryEstimate(STATES_PER_PARAMETER * 4 * parameters, sum(saved) + 2 * max(saved))


def saved_bytes(network: nn.Module, run: Callable[[], object]) -> list[int]:
    """Bytes of each tensor that is alive after a forward pass because the way back needs it, or as its result."""
    own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, Tensor] = {}  # by storage; holding the tensors keeps storages from being given out twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            kept.setdefault(storage, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _keep_all(run(), keep)
    return [tensor.untyped_storage().nbytes() for tensor in kept.values()]


def _keep_all(outputs: object, keep: Callable[[Tensor], Tensor]) -> None:
    if isinstance(outputs, Tensor):
        keep(outputs)
    elif isinstance(outputs, list | tuple):
        for output in outputs:
            _keep_all(output, keep)
