"""Convolutions whose channels lie beside each other in memory, as tensor cores read them."""

from __future__ import annotations

import torch
from torch import nn


def to_channels_last(module: nn.Module) -> int:
    """Lay out the weights of 3D convolutions channels last, in place, and return how many; names and values stay.

    What a convolution gives has the layout of its weight, so that images need no change. Kernels of one voxel are left
    out, which are the same in either layout.
    """
    convolutions = [one for one in module.modules() if isinstance(one, nn.Conv3d | nn.ConvTranspose3d)]
    large = [one.weight for one in convolutions if one.weight[0, 0].numel() > 1]
    for weight in large:
        weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)
    return len(large)
