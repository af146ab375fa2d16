"""The plain vision transformer in 3D (Dosovitskiy et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from medpretrain3d.backbones.base import Level, Triple
from medpretrain3d.backbones.tokens import TokenBackbone, drop_paths, keep_tokens, resize_positions
from medpretrain3d.backbones.transformer import Block, PatchEmbed, initialize
from medpretrain3d.errors import UserError
from medpretrain3d.values import Cells, Channels, Layers, Positive, ShareBelowOne, Steps

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
        preset: size; `B` is ViT-B. None for `width`, `depth` and `heads` of your own.
        in_channels: channels of the image.
        patch_size: edges (D, H, W) of a token in voxels.
        position_grid: tokens along (D, H, W) that the table of positions holds, by default those of 96^3 voxels in
            patches of 16; an image with another grid gets the table resized trilinearly.
        checkpointing: compute each block's activations again in the backward pass instead of keeping them.
        drop_path: probability with which the last block's branches are left out in training; falls to 0 at the first.
        qkv_bias: whether queries, keys and values have a bias.
        norm_eps: of the layer norms; MONAI's have 1e-5.
        width: channels of a token, a multiple of `heads`; with `depth` and `heads` where the preset is None.
        depth: number of blocks.
        heads: attention heads.

    Raises:
        UserError: an unknown preset, or sizes of one's own beside a preset.

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
        preset: Preset | None = "B",
        in_channels: Channels = 1,
        patch_size: Steps = (16, 16, 16),
        position_grid: Cells = (6, 6, 6),
        checkpointing: bool = False,
        drop_path: ShareBelowOne = 0.0,
        qkv_bias: bool = True,
        norm_eps: Positive = 1e-6,
        width: Channels | None = None,
        depth: Layers | None = None,
        heads: Channels | None = None,
    ) -> None:
        super().__init__()
        size = _size(preset, width, depth, heads)
        self.in_channels = in_channels
        self.patch_size = _triple(patch_size)
        self.position_grid = _triple(position_grid)
        self.width = size.width
        self.checkpointing = checkpointing
        self.levels = (Level(size.width, self.patch_size),)
        self.patch_embed = PatchEmbed(in_channels, size.width, self.patch_size)
        d, h, w = self.position_grid
        self.pos_embed = nn.Parameter(torch.zeros(1, d * h * w, size.width))
        self.blocks = nn.ModuleList(
            Block(size.width, size.heads, drop, qkv_bias, norm_eps) for drop in drop_paths(drop_path, size.depth)
        )
        self.norm = nn.LayerNorm(size.width, eps=norm_eps)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.apply(initialize)

    def encode_at(
        self, tokens: Tensor, grid: Triple, blocks: Sequence[int], keep_index: Tensor | None = None
    ) -> list[Tensor]:
        """Return features behind each of some blocks, normalized by the last norm."""
        x = tokens + resize_positions(self.pos_embed, self.position_grid, grid)
        if keep_index is not None:
            x = keep_tokens(x, keep_index)
        features = []
        for index, block in enumerate(self.blocks):
            x = self.run_block(block, x)
            if index in blocks:
                features.append(self.norm(x))
        return features

    def depth_groups(self) -> list[list[nn.Parameter]]:
        """Return embedding and positions, then one group per block; the last norm belongs to the last block."""
        groups = [[*self.patch_embed.parameters(), self.pos_embed]]
        groups += [list(block.parameters()) for block in self.blocks]
        groups[-1] += self.norm.parameters()
        return groups


def _triple(edges: Sequence[int]) -> Triple:
    d, h, w = edges
    return (int(d), int(h), int(w))


def _size(preset: str | None, width: int | None, depth: int | None, heads: int | None) -> Size:
    own = (width, depth, heads)
    if preset is not None:
        if preset not in PRESETS:
            raise UserError(f"ViT: got preset '{preset}', wanted one of {', '.join(PRESETS)}")
        if own != (None, None, None):
            raise UserError(f"ViT: got preset '{preset}' and a width, depth or heads; set preset to null for your own")
        return PRESETS[preset]
    if width is None or depth is None or heads is None or width % heads:
        raise UserError(f"ViT: without a preset, wanted depth, heads and a width that they divide, got {own}")
    return Size(width, depth, heads)
