"""Decoders for every kind of backbone; thrown away after pretraining."""

from __future__ import annotations

from torch import Tensor, nn

from medpretrain3d.backbones import Level
from medpretrain3d.backbones.convolution import Conv3d
from medpretrain3d.backbones.norm import instance_norm
from medpretrain3d.objectives.decoders import UNetDecoder

MIN_CHANNELS = 16


class VolumeDecoder(nn.Module):
    """Features to a volume at full resolution: a U-Net with skips for a pyramid, stepwise for a single level.

    Args:
        levels: of the backbone, finest first.
        out_channels: channels of the output.
    """

    def __init__(self, levels: tuple[Level, ...], out_channels: int) -> None:
        super().__init__()
        is_pyramid = len(levels) > 1
        self.decoder = UNetDecoder(levels, out_channels) if is_pyramid else StepwiseDecoder(levels[0], out_channels)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return one map (B, C_l, D / s_d, H / s_h, W / s_w) per level to (B, out_channels, D, H, W)."""
        result: Tensor = self.decoder(features)
        return result


class StepwiseDecoder(nn.Module):
    """From the coarsest level alone to full resolution, doubling it and halving the channels step by step.

    Args:
        level: the coarsest of the backbone.
        out_channels: channels of the output.
    """

    def __init__(self, level: Level, out_channels: int) -> None:
        super().__init__()
        self.steps = nn.Sequential()
        channels, stride = level.channels, level.stride
        while stride != (1, 1, 1):
            d, h, w = (_smallest_factor(edge) for edge in stride)
            narrower = max(MIN_CHANNELS, channels // 2)
            self.steps.append(nn.ConvTranspose3d(channels, narrower, (d, h, w), (d, h, w)))
            self.steps.append(Conv3d(narrower, narrower, 3, padding=1))
            self.steps.append(instance_norm(narrower))
            self.steps.append(nn.LeakyReLU(0.01, inplace=True))
            channels, stride = narrower, (stride[0] // d, stride[1] // h, stride[2] // w)
        self.head = nn.Conv3d(channels, out_channels, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return features finest first, of which the last is read, to (B, out_channels, D, H, W)."""
        result: Tensor = self.head(self.steps(features[-1]))
        return result


def _smallest_factor(edge: int) -> int:
    """Return smallest prime factor; 1 for 1."""
    return next((factor for factor in range(2, edge + 1) if edge % factor == 0), 1)
