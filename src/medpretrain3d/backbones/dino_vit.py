"""The vision transformer of DINOv2 and DINOv3 in 3D (Oquab et al., 2024), as five public models have it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from types import MappingProxyType
from typing import Literal

import torch
from einops import repeat
from torch import Tensor, nn

from medpretrain3d.backbones.base import Level, Triple
from medpretrain3d.backbones.rope import normalized_axial_rotation
from medpretrain3d.backbones.tokens import TokenBackbone, drop_paths, keep_tokens, resize_positions
from medpretrain3d.backbones.transformer import Block, PatchEmbed, initialize
from medpretrain3d.errors import UserError
from medpretrain3d.values import Cells, Channels, ChannelsOrNone, Finite, Layers, Positive, ShareBelowOne, Steps


class DinoViT(TokenBackbone):
    """Patches, a class token and registers, layer scale; rotary positions in normalized coordinates or a learned table.

    Rotary positions turn the pairs of channels of a token by 2 pi c / period, where c in [-1, 1] is the place of its
    center along each axis: they stretch with the grid. Parameter names are those of DINOv2.

    Args:
        width: channels of a token; with rotary positions a multiple of six times `heads`.
        depth: number of blocks.
        heads: attention heads.
        in_channels: channels of the image.
        patch_size: edges (D, H, W) of a token in voxels.
        positions: `rotary` or `learned`.
        position_grid: tokens along (D, H, W) that the table of learned positions holds; an image with another grid gets
            it resized trilinearly.
        interpolate_offset: of learned positions: added to the number of tokens along each axis when the scale of the
            resizing is computed, as DINOv2 does with 0.1; negative where an axis is counted from its far end.
        num_register_tokens: tokens without a place that take part in attention and are left out of the features.
        rope_base: ratio of the longest to the shortest period of rotary positions; an encoder file brings its own.
        rope_precision: in which angles and rotations are computed; FlexiCT was trained in bf16.
        layer_scale: first value of the learned factor on each branch; None for branches without one.
        qkv_bias: whether queries, keys and values have a bias.
        norm_eps: of the layer norms.
        drop_path: probability with which the last block's branches are left out in training; falls to 0 at the first.
        checkpointing: compute each block's activations again in the backward pass instead of keeping them.
        drop_path_uniform: whether the branches of every block are left out as often as the last one's, as in 3DINO.

    Raises:
        UserError: a width that does not divide into heads, or into heads of three rotated axes.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import DinoViT
        >>> backbone = DinoViT(width=48, depth=2, heads=2, patch_size=(8, 8, 8))
        >>> [tuple(features.shape[1:]) for features in backbone(torch.zeros(1, 1, 16, 16, 16))]
        [(48, 2, 2, 2)]
    """

    citation = "Oquab et al., 2024, arXiv:2304.07193"
    sizes = (
        {"width": 864, "depth": 16, "heads": 12, "patch_size": (8, 8, 8)},
        {"width": 864, "depth": 12, "heads": 12, "patch_size": (14, 14, 14)},
        {"width": 1080, "depth": 24, "heads": 12, "patch_size": (8, 16, 16)},
        {"width": 1024, "depth": 24, "heads": 16, "positions": "learned"},
        {"width": 768, "depth": 12, "heads": 12, "patch_size": (4, 8, 8), "positions": "learned"},
    )
    tiny = MappingProxyType(
        {"width": 48, "depth": 2, "heads": 2, "patch_size": (8, 8, 8), "num_register_tokens": 1, "layer_scale": 1.0}
    )

    periods: Tensor | None

    def __init__(
        self,
        width: Channels = 864,
        depth: Layers = 12,
        heads: Channels = 12,
        in_channels: Channels = 1,
        patch_size: Steps = (16, 16, 16),
        positions: Literal["rotary", "learned"] = "rotary",
        position_grid: Cells = (7, 7, 7),
        interpolate_offset: tuple[Finite, Finite, Finite] = (0.0, 0.0, 0.0),
        num_register_tokens: ChannelsOrNone = 4,
        rope_base: Positive = 100.0,
        rope_precision: Literal["float32", "bfloat16"] = "float32",
        layer_scale: Finite | None = 1e-5,
        qkv_bias: bool = True,
        norm_eps: Positive = 1e-6,
        drop_path: ShareBelowOne = 0.0,
        checkpointing: bool = False,
        drop_path_uniform: bool = False,
    ) -> None:
        super().__init__()
        multiple = 6 * heads if positions == "rotary" else heads
        if width % multiple:
            raise UserError(
                f"DinoViT: got width {width} for {heads} heads and {positions} positions, wanted a multiple of "
                f"{multiple}"
            )
        self.in_channels = in_channels
        self.patch_size = (patch_size[0], patch_size[1], patch_size[2])
        self.position_grid = (position_grid[0], position_grid[1], position_grid[2])
        self.interpolate_offset = interpolate_offset
        self.width = width
        self.checkpointing = checkpointing
        self.rope_dtype = torch.bfloat16 if rope_precision == "bfloat16" else torch.float32
        self.levels = (Level(width, self.patch_size),)
        self.patch_embed = PatchEmbed(in_channels, width, self.patch_size)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 1e-6)
        registers = torch.randn(1, num_register_tokens, width) * 1e-6
        self.register_tokens = nn.Parameter(registers) if num_register_tokens else None
        is_rotary = positions == "rotary"
        table = torch.zeros(1, 1 + prod(self.position_grid), width)
        self.pos_embed = None if is_rotary else nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        num_bands = width // heads // 6
        periods = float(rope_base) ** (torch.arange(num_bands, dtype=torch.float32) / max(1, num_bands))
        self.register_buffer("periods", periods if is_rotary else None)
        drops = drop_paths(drop_path, depth, drop_path_uniform)
        self.blocks = nn.ModuleList(Block(width, heads, drop, qkv_bias, norm_eps, layer_scale) for drop in drops)
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.apply(initialize)

    @property
    def name(self) -> str:
        """Model name with width, depth and patch, as in `DinoViT-864x16/8`."""
        patch = self.patch_size if len(set(self.patch_size)) > 1 else self.patch_size[:1]
        return f"DinoViT-{self.width}x{len(self.blocks)}/{'x'.join(map(str, patch))}"

    def encode_at(
        self, tokens: Tensor, grid: Triple, blocks: Sequence[int], keep_index: Tensor | None = None
    ) -> list[Tensor]:
        """Return features behind each of some blocks, normalized by the last norm."""
        return [x[:, self.num_prefix_tokens :] for x in self._run(tokens, grid, blocks, keep_index)]

    def encode_with_class(self, tokens: Tensor, grid: Triple) -> tuple[Tensor, Tensor]:
        """Return the class token (B, width) and the patch tokens (B, N, width), both through the last norm."""
        (x,) = self._run(tokens, grid, [self.depth - 1])
        return x[:, 0], x[:, self.num_prefix_tokens :]

    @property
    def num_prefix_tokens(self) -> int:
        """Number of tokens before those of the patches: the class token and the registers."""
        return 1 + (0 if self.register_tokens is None else self.register_tokens.shape[1])

    def _run(
        self, tokens: Tensor, grid: Triple, blocks: Sequence[int], keep_index: Tensor | None = None
    ) -> list[Tensor]:
        """Return all tokens (B, R + N_keep, width), those without a place first, behind each of some blocks."""
        x: Tensor = tokens
        prefix: Tensor = self.cls_token
        rotation: tuple[Tensor, ...] = ()
        if self.pos_embed is not None:
            table = resize_positions(self.pos_embed[:, 1:], self.position_grid, grid, self.interpolate_offset)
            x, prefix = x + table, prefix + self.pos_embed[:, :1]
        if self.periods is not None:
            rotation = tuple(  # (1 or B, N_keep, head_width) each
                part[None] if keep_index is None else part[keep_index]
                for part in normalized_axial_rotation(grid, self.periods, self.rope_dtype)
            )
        if keep_index is not None:
            x = keep_tokens(x, keep_index)
        if self.register_tokens is not None:
            prefix = torch.cat([prefix, self.register_tokens], dim=1)
        x = torch.cat([repeat(prefix, "1 r c -> b r c", b=len(x)), x], dim=1)
        features = []
        for index, block in enumerate(self.blocks):
            x = self.run_block(block, x, *rotation)
            if index in blocks:
                features.append(self.norm(x))
        return features

    def depth_groups(self) -> list[list[nn.Parameter]]:
        """Embedding, positions and class tokens, then one group per block; the last norm is the last block's."""
        tables = [self.cls_token, self.register_tokens, self.pos_embed]
        groups = [[*self.patch_embed.parameters(), *(one for one in tables if one is not None)]]
        groups += [list(block.parameters()) for block in self.blocks]
        groups[-1] += self.norm.parameters()
        return groups
