"""The parts of a plain vision transformer, under timm's names: patch embedding, attention, MLP, layer scale, block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from medpretrain3d.backbones.base import Triple
from medpretrain3d.backbones.rope import rotate
from medpretrain3d.backbones.tokens import DropPath


class PatchEmbed(nn.Module):
    """A linear map of every patch (D, H, W) of an image."""

    def __init__(self, in_channels: int, width: int, patch_size: Triple) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, width, patch_size, patch_size)

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (B, C, D, H, W) to tokens (B, N, width) in the order (d h w)."""
        result: Tensor = rearrange(self.proj(image), "b c d h w -> b (d h w) c")
        return result


class Attention(nn.Module):
    """Self-attention of all tokens, whose queries and keys may be rotated by their places."""

    def __init__(self, width: int, heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, sine: Tensor | None = None, cosine: Tensor | None = None) -> Tensor:
        """`x` (B, R + N, width), of which the last N are rotated by `sine` and `cosine` (B or 1, N, head_width)."""
        q, k, v = rearrange(self.qkv(x), "b n (three heads c) -> three b heads n c", three=3, heads=self.heads)
        if sine is not None and cosine is not None:
            # In the precision of the angles, as published: where that is bf16, every query and key is rounded to it.
            q, k = (rotate(part.to(sine.dtype), sine, cosine).to(part.dtype) for part in (q, k))
        mixed = F.scaled_dot_product_attention(q, k, v)
        result: Tensor = self.proj(rearrange(mixed, "b heads n c -> b n (heads c)"))
        return result


class Mlp(nn.Module):
    """Two layers with GELU between, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, N, width), each by itself."""
        result: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return result


class LayerScale(nn.Module):
    """A learned factor on each channel of a branch (Touvron et al., 2021)."""

    def __init__(self, width: int, first: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), float(first)))

    def forward(self, x: Tensor) -> Tensor:
        """Scale (B, N, width)."""
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to what came in."""

    def __init__(
        self,
        width: int,
        heads: int,
        drop_path: DropPath,
        qkv_bias: bool = True,
        norm_eps: float = 1e-6,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attn = Attention(width, heads, qkv_bias)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width)
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)
        self.drop_path = drop_path

    def forward(self, x: Tensor, sine: Tensor | None = None, cosine: Tensor | None = None) -> Tensor:
        """Map tokens (B, R + N, width); `sine` and `cosine` as `Attention` takes them."""
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), sine, cosine)))
        result: Tensor = x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))
        return result


def initialize(module: nn.Module) -> None:
    """Initialize linear layers as ViTs are (truncated normal, 0.02), the patch embedding as the linear map it is."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv3d):
        # He et al. (2022).
        nn.init.xavier_uniform_(module.weight.flatten(1))
