"""Primus, a plain 3D transformer made for dense tasks (Wald et al., 2025)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from medpretrain3d.backbones.base import Level, Triple
from medpretrain3d.backbones.resenc import ResidualStage
from medpretrain3d.backbones.rope import axial_rotation, rotate
from medpretrain3d.backbones.tokens import DropPath, TokenBackbone, drop_paths, keep_tokens, resize_positions
from medpretrain3d.errors import UserError
from medpretrain3d.values import Cells, Channels, ChannelsOrNone, Finite, Layers, ShareBelowOne, Steps


class Size(NamedTuple):
    """Channels of a token, transformer blocks, attention heads."""

    width: int
    depth: int
    heads: int


PRESETS: dict[str, Size] = {
    "XXS": Size(48, 2, 2),  # for tests and smoke runs
    "S": Size(396, 12, 6),
    "B": Size(792, 12, 12),
    "M": Size(864, 16, 12),
    "L": Size(1056, 24, 16),
}


class Primus(TokenBackbone):
    """Patches, learned positions and rotary ones, SwiGLU, layer scale, a norm after attention.

    Parameter names are those of the published checkpoints (`down_projection.proj.weight`, `eva.blocks.0...`).

    Args:
        preset: published size; None for `width`, `depth` and `heads` of your own.
        in_channels: channels of the image.
        patch_size: edges (D, H, W) of a token in voxels.
        position_grid: tokens along (D, H, W) that the table of learned positions holds, by default those of 160^3
            voxels; an image with another grid gets the table resized trilinearly.
        num_register_tokens: tokens without a place that take part in attention and are left out of the features.
        layer_scale: first value of the learned factor on each branch; None for branches without one.
        attention_norm: whether a layer norm stands between attention and its output projection.
        drop_path: probability with which the last block's branches are left out in training; falls to 0 at the first.
        checkpointing: compute each block's activations again in the backward pass instead of keeping them.
        width: channels of a token, a multiple of six times `heads`.
        depth: number of blocks.
        heads: attention heads.
        embedding: channels of the residual stages, each at half the resolution of that before, that embed patches in
            PrimusV2, published as (32, 64, 128); None for one linear map. Such tokens see beyond their patches, so
            objectives that hide patches refuse them.

    Raises:
        UserError: an unknown preset, a patch that the stages of the embedding do not reach, or a width that does not
            divide into heads of three rotated axes.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import Primus
        >>> backbone = Primus(preset="XXS", position_grid=(2, 2, 2))
        >>> [tuple(features.shape[1:]) for features in backbone(torch.zeros(1, 1, 16, 16, 16))]
        [(48, 2, 2, 2)]
    """

    citation = "Wald et al., 2025, arXiv:2503.01835"
    sizes = tuple({"preset": preset} for preset in PRESETS)

    def __init__(
        self,
        preset: str | None = "M",
        in_channels: Channels = 1,
        patch_size: Steps = (8, 8, 8),
        position_grid: Cells = (20, 20, 20),
        num_register_tokens: ChannelsOrNone = 0,
        layer_scale: Finite | None = 0.1,
        attention_norm: bool = True,
        drop_path: ShareBelowOne = 0.0,
        checkpointing: bool = False,
        width: Channels | None = None,
        depth: Layers | None = None,
        heads: Channels | None = None,
        embedding: Sequence[Channels] | None = None,
    ) -> None:
        super().__init__()
        size = _size(preset, width, depth, heads)
        if embedding is not None and tuple(patch_size) != (2 ** len(embedding),) * 3:
            raise UserError(
                f"Primus: got patch_size {tuple(patch_size)} with an embedding of {len(embedding)} stages, which make "
                f"patches of {2 ** len(embedding)} voxels; set patch_size to it"
            )
        self.embeds_patches_alone = embedding is None
        self.in_channels = in_channels
        self.patch_size = (patch_size[0], patch_size[1], patch_size[2])
        self.position_grid = (position_grid[0], position_grid[1], position_grid[2])
        self.width = size.width
        self.checkpointing = checkpointing
        self.levels = (Level(size.width, self.patch_size),)
        self.head_width = size.width // size.heads
        self.down_projection: nn.Module = (
            _PatchEmbed(in_channels, size.width, self.patch_size)
            if embedding is None
            else _ResidualEmbed(in_channels, size.width, embedding)
        )
        self.register_tokens = (
            nn.Parameter(torch.randn(1, num_register_tokens, size.width) * 1e-6) if num_register_tokens else None
        )
        self.num_register_tokens = num_register_tokens
        blocks = [_Block(size, layer_scale, attention_norm, drop) for drop in drop_paths(drop_path, size.depth)]
        self.eva = _Encoder(blocks, num_register_tokens + math.prod(self.position_grid), size.width)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.eva.blocks)

    @property
    def embedding(self) -> nn.Module:
        """What maps an image to its tokens."""
        return self.down_projection

    def encode_at(
        self, tokens: Tensor, grid: Triple, blocks: Sequence[int], keep_index: Tensor | None = None
    ) -> list[Tensor]:
        """Return features behind each of some blocks, normalized by the last norm."""
        registers = self.num_register_tokens
        table = self.eva.pos_embed
        x = tokens + resize_positions(table[:, registers:], self.position_grid, grid)
        sine, cosine = axial_rotation(grid, self.head_width, x.device)  # (N, head_width) each
        sine, cosine = sine[None], cosine[None]
        if keep_index is not None:
            x = keep_tokens(x, keep_index)
            sine, cosine = sine[0][keep_index], cosine[0][keep_index]  # (B, N_keep, head_width)
        if self.register_tokens is not None:
            placeless = self.register_tokens + table[:, :registers]
            x = torch.cat([repeat(placeless, "1 r c -> b r c", b=len(x)), x], dim=1)
        features = []
        for index, block in enumerate(self.eva.blocks):
            x = self.run_block(block, x, sine, cosine)
            if index in blocks:
                features.append(self.eva.norm(x)[:, registers:])
        return features

    def sharded_blocks(self) -> list[nn.Module]:
        """Return the transformer blocks, not those of an embedding by residual stages."""
        return list(self.eva.blocks)

    def depth_groups(self) -> list[list[nn.Parameter]]:
        """Embedding, positions and registers, then one group per block; the last norm belongs to the last block."""
        first = [*self.down_projection.parameters(), self.eva.pos_embed]
        if self.register_tokens is not None:
            first.append(self.register_tokens)
        groups = [first, *(list(block.parameters()) for block in self.eva.blocks)]
        groups[-1] += self.eva.norm.parameters()
        return groups


class _PatchEmbed(nn.Module):
    def __init__(self, in_channels: int, width: int, patch_size: Triple) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, width, patch_size, patch_size)
        nn.init.kaiming_normal_(self.proj.weight, a=0.01)
        nn.init.zeros_(self.proj.bias)  # type: ignore[arg-type]  # a Conv3d has one by default

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = rearrange(self.proj(image), "b c d h w -> b (d h w) c")
        return result


class _ResidualEmbed(nn.Module):
    """PrimusV2's: a residual block at full resolution, strided ones, and a linear map to the width of a token."""

    def __init__(self, in_channels: int, width: int, channels: Sequence[int]) -> None:
        super().__init__()
        kernel, whole, half = (3, 3, 3), (1, 1, 1), (2, 2, 2)
        self.stem = ResidualStage(in_channels, channels[0], 1, kernel, whole, 0.0)
        self.stages = nn.ModuleList(
            ResidualStage(before, after, 1, kernel, half, 0.0)
            for before, after in zip((channels[0], *channels), channels, strict=False)
        )
        self.final_proj = nn.Conv3d(channels[-1], width, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image, _called)
        for stage in self.stages:
            x = stage(x, _called)
        result: Tensor = rearrange(self.final_proj(x), "b c d h w -> b (d h w) c")
        return result


def _called(block: nn.Module, x: Tensor) -> Tensor:
    result: Tensor = block(x)
    return result


class _Encoder(nn.Module):
    """Holds the parts under the published name; `Primus.encode` runs them."""

    def __init__(self, blocks: list[_Block], num_positions: int, width: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, num_positions, width))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.apply(_initialize)
        for index, block in enumerate(blocks, start=1):
            # Branches are added up over the depth: later ones begin smaller.
            with torch.no_grad():
                block.attn.proj.weight.div_(math.sqrt(2 * index))
                block.mlp.fc2.weight.div_(math.sqrt(2 * index))


class _Block(nn.Module):
    def __init__(self, size: Size, layer_scale: float | None, attention_norm: bool, drop_path: DropPath) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(size.width)
        self.attn = _Attention(size, attention_norm)
        self.norm2 = nn.LayerNorm(size.width)
        self.mlp = _SwiGLU(size.width)
        self.gamma_1 = None if layer_scale is None else nn.Parameter(torch.full((size.width,), float(layer_scale)))
        self.gamma_2 = None if layer_scale is None else nn.Parameter(torch.full((size.width,), float(layer_scale)))
        self.drop_path = drop_path

    def forward(self, x: Tensor, sine: Tensor, cosine: Tensor) -> Tensor:
        x = x + self._branch(self.attn(self.norm1(x), sine, cosine), self.gamma_1)
        return x + self._branch(self.mlp(self.norm2(x)), self.gamma_2)

    def _branch(self, x: Tensor, gamma: Tensor | None) -> Tensor:
        result: Tensor = self.drop_path(x if gamma is None else gamma * x)
        return result


class _Attention(nn.Module):
    def __init__(self, size: Size, with_norm: bool) -> None:
        super().__init__()
        self.heads = size.heads
        self.q_proj = nn.Linear(size.width, size.width)
        self.k_proj = nn.Linear(size.width, size.width, bias=False)
        self.v_proj = nn.Linear(size.width, size.width)
        self.norm = nn.LayerNorm(size.width) if with_norm else nn.Identity()
        self.proj = nn.Linear(size.width, size.width)

    def forward(self, x: Tensor, sine: Tensor, cosine: Tensor) -> Tensor:
        """`x` (B, R + N, width), of which the last N are rotated by `sine` and `cosine` (B or 1, N, head_width)."""
        q, k, v = (
            rearrange(project(x), "b n (heads c) -> b heads n c", heads=self.heads)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(rotate(q, sine, cosine), rotate(k, sine, cosine), v)
        result: Tensor = self.proj(self.norm(rearrange(mixed, "b heads n c -> b n (heads c)")))
        return result


class _SwiGLU(nn.Module):
    """Gated linear unit with a norm before its output (Shazeer, 2020); 8/3 as wide as the token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 8 * width // 3
        self.fc1_g = nn.Linear(width, hidden)
        self.fc1_x = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc2(self.norm(F.silu(self.fc1_g(x)) * self.fc1_x(x)))
        return result


def _size(preset: str | None, width: int | None, depth: int | None, heads: int | None) -> Size:
    own = (width, depth, heads)
    if preset is not None:
        if preset not in PRESETS:
            raise UserError(f"Primus: got preset '{preset}', wanted one of {', '.join(PRESETS)}")
        if own != (None, None, None):
            raise UserError(
                f"Primus: got preset '{preset}' and a width, depth or heads; set preset to null for your own"
            )
        return PRESETS[preset]
    if width is None or depth is None or heads is None:
        raise UserError(f"Primus: without a preset, wanted width, depth and heads, got {own}")
    if width % (6 * heads):
        raise UserError(
            f"Primus: got width {width} for {heads} heads, wanted a multiple of {6 * heads}: each head rotates pairs "
            "of channels along three axes"
        )
    return Size(width, depth, heads)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
