"""nnU-Net's residual encoder (Isensee et al., nnU-Net Revisited, 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn

from medpretrain3d.backbones.base import Backbone, Triple
from medpretrain3d.backbones.conv_stages import (
    ConvNormAct,
    ConvStack,
    halving_strides,
    per_stage,
    stage_levels,
    stage_widths,
)
from medpretrain3d.values import Channels, Kernels, Layers, NonNegative, Steps

Preset = Literal["XXS", "XS", "S", "M", "L", "XL"]


class Width(NamedTuple):
    """Channels and residual blocks of each stage."""

    channels: tuple[int, ...]
    blocks: tuple[int, ...]


# L is the published network: 32 channels that double up to 320, blocks 1-3-4-6-6-6. nnU-Net's own M, L and XL plans
# all follow this rule and differ in patch, batch and number of stages; here M and S have fewer blocks and XL is half as
# wide again. XXS is for tests and smoke runs, XS trains on two CPU cores.
PRESETS: dict[str, Width] = {
    "XXS": Width((8, 16, 32, 48), (1, 1, 1, 1)),
    "XS": Width((16, 32, 64, 128, 160), (1, 1, 2, 2, 2)),
    "S": Width((32, 64, 128, 256, 320), (1, 2, 2, 2, 2)),
    "M": Width((32, 64, 128, 256, 320, 320), (1, 2, 3, 4, 4, 4)),
    "L": Width((32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6)),
    "XL": Width((48, 96, 192, 384, 480, 480), (1, 3, 4, 6, 6, 6)),
}


class ResEnc(Backbone):
    """Residual encoder with one level per stage, the first at full resolution.

    Parameter names are those of the published checkpoints (`stem.convs.0.conv.weight`, `stages.1.blocks.0.conv1...`),
    without their aliases.

    Args:
        preset: size; `L` is the published one with 90,296,576 parameters; None for `channels` and `blocks` of your own.
        in_channels: channels of the image.
        strides: stride of each stage along (D, H, W); default 1 for the first, 2 for the others.
        kernel_sizes: kernel of each stage; default 3 everywhere.
        checkpointing: compute each block's activations again in the backward pass instead of keeping them.
        channels: of each stage.
        blocks: residual blocks of each stage.
        negative_slope: of the LeakyReLU; 0 makes it a ReLU.

    Raises:
        UserError: an unknown preset, or sizes, strides or kernels that do not count one per stage.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> backbone = ResEnc(preset="XXS")
        >>> [tuple(features.shape[1:]) for features in backbone(torch.zeros(1, 1, 16, 16, 16))]
        [(8, 16, 16, 16), (16, 8, 8, 8), (32, 4, 4, 4), (48, 2, 2, 2)]
    """

    citation = "Isensee et al., 2024, arXiv:2404.09556"
    sizes = tuple({"preset": preset} for preset in PRESETS)

    def __init__(
        self,
        preset: Preset | None = "L",
        in_channels: Channels = 1,
        strides: Sequence[Steps] | None = None,
        kernel_sizes: Sequence[Kernels] | None = None,
        checkpointing: bool = False,
        channels: Sequence[Channels] | None = None,
        blocks: Sequence[Layers] | None = None,
        negative_slope: NonNegative = 0.01,
    ) -> None:
        super().__init__()
        widths, depths = stage_widths("ResEnc", PRESETS, preset, channels, blocks)
        stage_strides = per_stage("ResEnc", "strides", strides, halving_strides(len(widths)))
        stage_kernels = per_stage("ResEnc", "kernel_sizes", kernel_sizes, [(3, 3, 3)] * len(widths))
        self.in_channels = in_channels
        self.checkpointing = checkpointing
        self.depths = depths
        self.levels = stage_levels(widths, stage_strides)
        self.stem = ConvStack(in_channels, widths[0], 1, stage_kernels[0], negative_slope=negative_slope)
        self.stages = nn.ModuleList(
            ResidualStage(before, width, depth, kernel, stride, negative_slope)
            for before, width, depth, kernel, stride in zip(
                (widths[0], *widths), widths, depths, stage_kernels, stage_strides, strict=False
            )
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map an image (B, C, D, H, W) to one map (B, C_l, D / s_d, H / s_h, W / s_w) per level, finest first."""
        self.check_input(image)
        features = []
        x = self.stem(image)
        for stage in self.stages:
            x = stage(x, self.run_block)
            features.append(x)
        return features


class ResidualBlock(nn.Module):
    """Basic residual block; the shortcut is average pooling and a 1x1x1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels: int, kernel: Triple, stride: Triple, negative_slope: float) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(channels_in, channels, kernel, stride, negative_slope=negative_slope)
        self.conv2 = ConvNormAct(channels, channels, kernel, negative_slope=None)
        shortcut: list[nn.Module] = []
        if any(step > 1 for step in stride):
            shortcut.append(nn.AvgPool3d(stride, stride))
        if channels_in != channels:
            shortcut.append(ConvNormAct(channels_in, channels, (1, 1, 1), bias=False, negative_slope=None))
        self.skip = nn.Sequential(*shortcut)
        self.act = nn.LeakyReLU(negative_slope, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, D, H, W) to (B, C, D / s_d, H / s_h, W / s_w)."""
        result: Tensor = self.act(self.conv2(self.conv1(x)) + self.skip(x))
        return result


class ResidualStage(nn.Module):
    """Residual blocks in a row; the first one takes the stride."""

    def __init__(
        self, channels_in: int, channels: int, num_blocks: int, kernel: Triple, stride: Triple, negative_slope: float
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ResidualBlock(channels if i else channels_in, channels, kernel, (1, 1, 1) if i else stride, negative_slope)
            for i in range(num_blocks)
        )

    def forward(self, x: Tensor, run_block: Callable[..., Tensor]) -> Tensor:
        """Map (B, C_in, D, H, W) to (B, C, D / s_d, H / s_h, W / s_w), each block called by `run_block`."""
        for block in self.blocks:
            x = run_block(block, x)
        return x
