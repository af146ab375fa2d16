"""Computational cost of a backbone (FLOPs, activation memory), counted on tensors without memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from medpretrain3d.backbones.base import Backbone, Triple, check_patch


class Cost(NamedTuple):
    """FLOPs and activation memory of one image through the encoder."""

    flop: int
    """Floating point operations of the forward pass; a multiplication with its addition counts as two."""
    activation_bytes: int
    """What is kept for the backward pass in fp32, weights not included."""


def cost(backbone: Backbone, shape: Triple) -> Cost:
    """Count the arithmetic and the kept activations of an image (D, H, W).

    Args:
        backbone: on the `meta` device (built under `torch.device("meta")`), where nothing is computed.
        shape: a multiple of the coarsest stride.

    Raises:
        UserError: a shape that does not fit.
    """
    check_patch(shape, backbone.levels[-1].stride)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(torch.empty(1, backbone.in_channels, *shape, device="meta"))
    return Cost(counter.get_total_flops(), _activation_bytes(backbone, shape))


def _activation_bytes(backbone: Backbone, shape: Triple) -> int:
    kept: dict[int, int] = {}
    held: list[torch.UntypedStorage] = []  # a storage that dies would give its address to the next

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
            held.append(storage)
        return tensor

    tensors = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    sizes = {name: (tensor.shape, tensor.dtype, tensor.requires_grad) for name, tensor in tensors.items()}
    # Not on the meta device: there attention keeps its matrix, which no fused kernel does (Primus-M: 18 GB for 5.5).
    with FakeTensorMode():
        weights = {
            name: torch.empty(size, dtype=dtype, requires_grad=learns) for name, (size, dtype, learns) in sizes.items()
        }
        own = {weight.untyped_storage()._cdata for weight in weights.values()}
        image = torch.empty(1, backbone.in_channels, *shape)
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            functional_call(backbone, weights, (image,))
    return sum(kept.values())
