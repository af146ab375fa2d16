"""Rotary positions along three axes (Su et al., 2021; axial as in EVA-02: Fang et al., 2023)."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor

from medpretrain3d.backbones.base import Triple


def axial_rotation(grid: Triple, head_width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return sine and cosine of every token's angles, each (N, head_width) float32, tokens in the order (d h w).

    The channels of a head fall into three equal groups, for D, H and W; a pair of channels within a group turns by
    position * 10000^(-i / n), i = 0 .. n - 1, with n = head_width / 6.
    """
    num_bands = head_width // 6
    bands = 10000.0 ** -(torch.arange(num_bands, device=device, dtype=torch.float32) / num_bands)
    places = [torch.arange(size, device=device, dtype=torch.float32) for size in grid]
    position = torch.stack(torch.meshgrid(*places, indexing="ij"), dim=-1)  # (d, h, w, 3)
    angle = rearrange(position[..., None] * bands, "d h w group band -> (d h w) (group band)")
    angle = angle.repeat_interleave(2, dim=-1)
    return angle.sin(), angle.cos()


def normalized_axial_rotation(grid: Triple, periods: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return sine and cosine of every token's angles, each (N, head_width), tokens in the order (d h w).

    Angles are 2 pi c / period, c in [-1, 1] the place of a token's center along an axis of the grid by itself (DINOv3:
    Simeoni et al., 2025, in three dimensions). Pairs of channels as in `axial_rotation`.

    Args:
        grid: tokens along (D, H, W).
        periods: (P), with head_width = 6 P.
        dtype: in which all of this is computed, in the order of the published code: in bf16 each step is rounded.
    """
    places = [torch.arange(0.5, size, device=periods.device, dtype=dtype) / size for size in grid]
    coordinate = 2.0 * torch.stack(torch.meshgrid(*places, indexing="ij"), dim=-1) - 1.0  # (d, h, w, 3)
    angle = 2 * math.pi * coordinate[..., None] / periods.to(dtype)
    angle = rearrange(angle, "d h w group band -> (d h w) (group band)").repeat_interleave(2, dim=-1)
    return angle.sin(), angle.cos()


def rotate(x: Tensor, sine: Tensor, cosine: Tensor) -> Tensor:
    """Turn each pair of channels of the last N tokens of (B, heads, R + N, head_width); the first R have no place.

    `sine` and `cosine` are (B or 1, N, head_width).
    """
    num_placeless = x.shape[2] - sine.shape[1]
    placeless, placed = x[:, :, :num_placeless], x[:, :, num_placeless:]
    quarter_turn = torch.stack([-placed[..., 1::2], placed[..., ::2]], dim=-1).flatten(-2)
    turned = (placed * cosine[:, None] + quarter_turn * sine[:, None]).to(x.dtype)
    return torch.cat([placeless, turned], dim=2) if num_placeless else turned
