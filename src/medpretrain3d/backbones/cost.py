"""What a backbone costs, counted on tensors without memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from medpretrain3d.backbones.base import Backbone, Triple, check_patch


class Cost(NamedTuple):
    """Of one image through the encoder."""

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
    own = {parameter.untyped_storage()._cdata for parameter in backbone.parameters()}
    kept: dict[int, int] = {}
    held = []  # a storage that dies would give its address to the next

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
            held.append(storage)
        return tensor

    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        backbone(torch.empty(1, backbone.in_channels, *shape, device="meta"))
    return Cost(counter.get_total_flops(), sum(kept.values()))
