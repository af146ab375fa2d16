"""Decoders that reconstruct a volume from features; thrown away after pretraining."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from medpretrain3d.backbones import Level
from medpretrain3d.backbones.convolution import Conv3d
from medpretrain3d.backbones.norm import instance_norm
from medpretrain3d.backbones.tokens import tokens_to_map
from medpretrain3d.errors import UserError

Triple = tuple[int, int, int]


class UNetDecoder(nn.Module):
    """nnU-Net's light decoder: per stage a transposed convolution, the skip, and one convolution.

    A pyramid that begins below full resolution (ResNet, Swin) gets one more stage without a skip. A decoder may stop
    before, at a level of which each cell is mapped to the voxels that it stands for.

    Args:
        levels: the pyramid, finest first.
        out_channels: channels of the output.
        stride: of the level to stop at; by default none.

    Raises:
        UserError: no level has that stride.
    """

    def __init__(self, levels: tuple[Level, ...], out_channels: int, stride: Triple | None = None) -> None:
        super().__init__()
        levels = levels_from(levels, stride)
        self.upsample = nn.ModuleList()
        self.fuse = nn.ModuleList()
        for coarse, fine in zip(levels[:0:-1], levels[-2::-1], strict=True):
            d, h, w = (c // f for c, f in zip(coarse.stride, fine.stride, strict=True))
            self.upsample.append(nn.ConvTranspose3d(coarse.channels, fine.channels, (d, h, w), (d, h, w)))
            self.fuse.append(_conv_norm_act(2 * fine.channels, fine.channels))
        channels, finest = levels[0].channels, levels[0].stride
        self.finish = nn.Sequential()
        if finest != (1, 1, 1) and stride is None:
            half = max(1, channels // 2)
            self.finish.append(nn.ConvTranspose3d(channels, half, finest, finest))
            self.finish.append(_conv_norm_act(half, half))
            channels = half
        self.head = nn.Conv3d(channels, out_channels, 1) if stride is None else VoxelHead(levels[0], out_channels)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return features finest first, of which the finest may be too fine, to a volume (B, out_channels, D, H, W)."""
        features = features[len(features) - len(self.upsample) - 1 :]
        x = features[-1]
        for upsample, fuse, skip in zip(self.upsample, self.fuse, features[-2::-1], strict=True):
            x = fuse(torch.cat([upsample(x), skip], dim=1))
        result: Tensor = self.head(self.finish(x))
        return result


def levels_from(levels: tuple[Level, ...], stride: Triple | None) -> tuple[Level, ...]:
    """Return the levels from that of a stride on, which a decoder that stops there reads; all of them for None.

    Raises:
        UserError: no level has that stride.
    """
    if stride is None:
        return levels
    strides = [level.stride for level in levels]
    d, h, w = stride
    if (d, h, w) not in strides:
        there = ", ".join(map(str, strides))
        raise UserError(f"decoder_stride: got {(d, h, w)}, wanted that of a level of the backbone: {there}")
    return levels[strides.index((d, h, w)) :]


class VoxelHead(nn.Module):
    """A linear map of each cell of a level to the voxels it stands for.

    Args:
        level: channels and stride of the map.
        out_channels: channels of the output.
    """

    def __init__(self, level: Level, out_channels: int) -> None:
        super().__init__()
        self.stride = level.stride
        self.project = nn.Conv3d(level.channels, out_channels * math.prod(level.stride), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, d, h, w) to a volume (B, out_channels, d * s_d, h * s_h, w * s_w)."""
        d, h, w = self.stride
        result: Tensor = rearrange(
            self.project(x), "b (c pd ph pw) d h w -> b c (d pd) (h ph) (w pw)", pd=d, ph=h, pw=w
        )
        return result


class TokenDecoder(nn.Module):
    """A mask token at every hidden place, sine-cosine positions, transformer blocks, a linear map to voxels.

    Args:
        level: width and patch of the tokens.
        out_channels: channels of the output.
        depth: number of blocks.
    """

    def __init__(self, level: Level, out_channels: int, depth: int) -> None:
        super().__init__()
        width = level.channels
        self.embed = nn.Linear(width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        heads = next(heads for heads in range(max(1, width // 48), 0, -1) if width % heads == 0)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = VoxelHead(level, out_channels)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, visible: Tensor, grid: Triple, keep_index: Tensor) -> Tensor:
        """Return visible tokens (B, N_keep, C) at their places on the grid to a volume (B, out_channels, D, H, W)."""
        visible = self.embed(visible)
        batch, width = len(visible), visible.shape[-1]
        everywhere = self.mask_token.to(visible.dtype).expand(batch, math.prod(grid), width)
        x = everywhere.scatter(1, keep_index[..., None].expand(-1, -1, width), visible)
        x = x + sine_cosine_positions(grid, width).to(x.device, x.dtype, non_blocking=True)
        for block in self.blocks:
            x = block(x)
        result: Tensor = self.head(tokens_to_map(self.norm(x), grid))
        return result


def sine_cosine_positions(grid: Triple, width: int) -> Tensor:
    """Positions (1, N, width) in the order (d h w): sines and cosines of each axis' index (Vaswani et al., 2017).

    A third of the channels speaks of each axis; what six does not divide stays zero.
    """
    num_rates = width // 6
    rates = 10_000 ** (-torch.arange(num_rates) / max(1, num_rates))  # (R,)
    axes = torch.meshgrid(*(torch.arange(count) for count in grid), indexing="ij")
    index = torch.stack(axes, dim=-1).reshape(-1, 3)  # (N, 3)
    angles = (index[:, :, None] * rates).flatten(1)  # (N, 3 R)
    table = torch.cat([angles.sin(), angles.cos()], dim=1)
    return nn.functional.pad(table, (0, width - table.shape[1]))[None]


def _conv_norm_act(channels_in: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        Conv3d(channels_in, channels, 3, padding=1),
        instance_norm(channels),
        nn.LeakyReLU(0.01, inplace=True),
    )
