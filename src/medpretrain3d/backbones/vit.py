"""The plain vision transformer in 3D (Dosovitskiy et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from medpretrain3d.backbones.base import Level, Triple
from medpretrain3d.backbones.tokens import DropPath, TokenBackbone, drop_paths, keep_tokens, resize_positions
from medpretrain3d.errors import UserError
from medpretrain3d.values import Cells, Channels, ShareBelowOne, Steps

Preset = Literal["XXS", "XS", "S", "B", "L"]


class Size(NamedTuple):
    """Channels of a token, transformer blocks, attention heads."""

    width: int
    depth: int
    heads: int


# S, B and L are the published sizes; XXS is for tests and smoke runs, XS trains on two CPU cores.
PRESETS: dict[str, Size] = {
    "XXS": Size(48, 2, 3),
    "XS": Size(192, 6, 3),
    "S": Size(384, 12, 6),
    "B": Size(768, 12, 12),
    "L": Size(1024, 24, 16),
}


class ViT(TokenBackbone):
    """Patches, learned positions, pre-norm transformer blocks, a last layer norm; no class token.

    ViT-B/16 of masked autoencoding (He et al., 2022), with cubes for squares. Parameter names are timm's.

    Args:
        preset: size; `B` is ViT-B.
        in_channels: channels of the image.
        patch_size: edges (D, H, W) of a token in voxels.
        position_grid: tokens along (D, H, W) that the table of positions holds, by default those of 96^3 voxels in
            patches of 16; an image with another grid gets the table resized trilinearly.
        checkpointing: compute each block's activations again in the backward pass instead of keeping them.
        drop_path: probability with which the last block's branches are left out in training; falls to 0 at the first.

    Raises:
        UserError: an unknown preset.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ViT
        >>> backbone = ViT(preset="XXS", patch_size=(8, 8, 8), position_grid=(2, 2, 2))
        >>> [tuple(features.shape[1:]) for features in backbone(torch.zeros(1, 1, 16, 16, 16))]
        [(48, 2, 2, 2)]
    """

    citation = "Dosovitskiy et al., 2021, arXiv:2010.11929"
    sizes = tuple({"preset": preset} for preset in PRESETS)

    def __init__(
        self,
        preset: Preset = "B",
        in_channels: Channels = 1,
        patch_size: Steps = (16, 16, 16),
        position_grid: Cells = (6, 6, 6),
        checkpointing: bool = False,
        drop_path: ShareBelowOne = 0.0,
    ) -> None:
        super().__init__()
        if preset not in PRESETS:
            raise UserError(f"ViT: got preset '{preset}', wanted one of {', '.join(PRESETS)}")
        size = PRESETS[preset]
        self.in_channels = in_channels
        self.patch_size = _triple(patch_size)
        self.position_grid = _triple(position_grid)
        self.width = size.width
        self.checkpointing = checkpointing
        self.levels = (Level(size.width, self.patch_size),)
        self.patch_embed = _PatchEmbed(in_channels, size.width, self.patch_size)
        d, h, w = self.position_grid
        self.pos_embed = nn.Parameter(torch.zeros(1, d * h * w, size.width))
        self.blocks = nn.ModuleList(_Block(size.width, size.heads, drop) for drop in drop_paths(drop_path, size.depth))
        self.norm = nn.LayerNorm(size.width, eps=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.apply(_initialize)

    def embed(self, image: Tensor) -> Tensor:
        """Map an image (B, C, D, H, W) to patch tokens (B, N, width), without position."""
        result: Tensor = self.patch_embed(image)
        return result

    def encode(self, tokens: Tensor, grid: Triple, keep_index: Tensor | None = None) -> Tensor:
        """Return tokens (B, N, width) on a grid to features (B, N_keep, width) of those kept."""
        x = tokens + resize_positions(self.pos_embed, self.position_grid, grid)
        if keep_index is not None:
            x = keep_tokens(x, keep_index)
        for block in self.blocks:
            x = self.run_block(block, x)
        result: Tensor = self.norm(x)
        return result

    def depth_groups(self) -> list[list[nn.Parameter]]:
        """Return embedding and positions, then one group per block; the last norm belongs to the last block."""
        groups = [[*self.patch_embed.parameters(), self.pos_embed]]
        groups += [list(block.parameters()) for block in self.blocks]
        groups[-1] += self.norm.parameters()
        return groups


class _PatchEmbed(nn.Module):
    def __init__(self, in_channels: int, width: int, patch_size: Triple) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, width, patch_size, patch_size)

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = rearrange(self.proj(image), "b c d h w -> b (d h w) c")
        return result


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, drop_path: DropPath) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = _Mlp(width)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        result: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return result


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (three heads c) -> three b heads n c", three=3, heads=self.heads)
        mixed = F.scaled_dot_product_attention(q, k, v)
        result: Tensor = self.proj(rearrange(mixed, "b heads n c -> b n (heads c)"))
        return result


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return result


def _triple(edges: Sequence[int]) -> Triple:
    d, h, w = edges
    return (int(d), int(h), int(w))


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv3d):
        # The embedding is a linear map of the patch: He et al. (2022) initialise it as one.
        nn.init.xavier_uniform_(module.weight.flatten(1))
