"""Weights in bf16, with the other sixteen bits of each beside them: together they are the weight in fp32, bit by bit.

What networks compute with is bf16; what an optimizer updates, an average follows and a file holds is fp32. Neither
rounding nor drawing is part of an update, so that small steps add up as they do in fp32 and a run that was interrupted
ends with the same bytes. In place of a copy in fp32 (four bytes) two more bytes are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

SPLIT = (nn.Linear, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Layers whose weights autocast would cast; norms, biases, positions and prototypes are few and stay fp32."""
LOW = "low_bits"
"""Attribute of a weight that is split: int16, of its shape."""
HOOKS = "_hooks_of_split"
"""Attribute of its layer: what makes state dicts whole."""


def split_weights(network: nn.Module) -> None:
    """Split the weights of linear maps and convolutions that are trained; a slow teacher keeps its own in fp32.

    State dicts hold whole weights and take them, as if nothing had been split.
    """
    for layer in network.modules():
        weight = getattr(layer, "weight", None)
        if not isinstance(layer, SPLIT) or not isinstance(weight, nn.Parameter) or not weight.requires_grad:
            continue
        if weight.dtype == torch.float32:
            high, low = split(weight.detach())
            weight.data = high
            setattr(weight, LOW, low)
        if is_split(weight) and not hasattr(layer, HOOKS):
            hooked: Any = layer  # whose functions for hooks have no types
            hooks = (
                hooked.register_state_dict_post_hook(_save_whole),
                hooked.register_load_state_dict_pre_hook(_load_whole),
            )
            setattr(layer, HOOKS, hooks)


def join_weights(network: nn.Module) -> None:
    """Make the weights whole again."""
    for layer in network.modules():
        for hook in layer.__dict__.pop(HOOKS, ()):
            hook.remove()
    for weight in network.parameters():
        if is_split(weight):
            weight.grad = None
            weight.data = whole(weight)
            delattr(weight, LOW)


def is_split(weight: Tensor) -> bool:
    """Return whether a weight is the upper half of one in fp32."""
    return hasattr(weight, LOW)


def whole(weight: Tensor) -> Tensor:
    """Return a weight in fp32, detached: a new tensor of one that is split, any other as it is."""
    return join(weight.detach(), getattr(weight, LOW)) if is_split(weight) else weight.detach()


def put_whole(weight: Tensor, value: Tensor) -> None:
    """Give a weight, split or not, the value of one in fp32."""
    if is_split(weight):
        high, low = split(value)
        weight.detach().copy_(high)
        setattr(weight, LOW, low.to(weight.device))
    else:
        weight.detach().copy_(value)


def split_parameters(network: nn.Module) -> Iterator[nn.Parameter]:
    """Return the weights of a network that are split."""
    return (weight for weight in network.parameters() if is_split(weight))


def split(value: Tensor) -> tuple[Tensor, Tensor]:
    """Split fp32 into the nearest bf16, and how many steps of fp32 it is away: int16. A NaN stays one in both."""
    bits = value.contiguous().view(torch.int32)
    high = (bits + 0x8000) >> 16  # halves are rounded up, so that the rest is -32,768 to 32,767
    # Rounded, a NaN of CUDA (0x7FFFFFFF) is -0, and 0x7F800001 is infinite.
    high = torch.where(value.isnan(), 0x7FC0, high)
    return high.to(torch.int16).view(torch.bfloat16), (bits - (high << 16)).to(torch.int16)


def join(high: Tensor, low: Tensor) -> Tensor:
    """Return the fp32 that was split."""
    bits = (high.contiguous().view(torch.int16).to(torch.int32) << 16) + low.to(high.device, torch.int32)
    return bits.view(torch.float32)


def _save_whole(layer: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    state[f"{prefix}weight"] = whole(weight)


def _load_whole(layer: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    value, weight = state.get(f"{prefix}weight"), layer.weight
    assert isinstance(weight, nn.Parameter)
    if isinstance(value, Tensor) and value.shape == weight.shape and is_split(weight):
        high, low = split(value.detach().float())
        setattr(weight, LOW, low.to(weight.device))
        state[f"{prefix}weight"] = high  # which is copied as it is
