"""What turns a pyramid of features back into a volume; thrown away after pretraining."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medpretrain3d.backbones import Level
from medpretrain3d.backbones.norm import instance_norm


class UNetDecoder(nn.Module):
    """nnU-Net's light decoder: per stage a transposed convolution, the skip, and one convolution.

    Args:
        levels: the pyramid, finest first and at full resolution.
        out_channels: channels of the output.
    """

    def __init__(self, levels: tuple[Level, ...], out_channels: int) -> None:
        super().__init__()
        self.upsample = nn.ModuleList()
        self.fuse = nn.ModuleList()
        for coarse, fine in zip(levels[:0:-1], levels[-2::-1], strict=True):
            d, h, w = (c // f for c, f in zip(coarse.stride, fine.stride, strict=True))
            self.upsample.append(nn.ConvTranspose3d(coarse.channels, fine.channels, (d, h, w), (d, h, w)))
            self.fuse.append(
                nn.Sequential(
                    nn.Conv3d(2 * fine.channels, fine.channels, 3, padding=1),
                    instance_norm(fine.channels),
                    nn.LeakyReLU(0.01, inplace=True),
                )
            )
        self.head = nn.Conv3d(levels[0].channels, out_channels, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features finest first to a volume (B, out_channels, D, H, W) at the finest level's size."""
        x = features[-1]
        for upsample, fuse, skip in zip(self.upsample, self.fuse, features[-2::-1], strict=True):
            x = fuse(torch.cat([upsample(x), skip], dim=1))
        return self.head(x)
