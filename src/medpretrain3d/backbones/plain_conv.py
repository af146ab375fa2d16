"""The plain convolutional encoder of nnU-Net and nnDetection (Isensee et al., 2021; Baumgartner et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from medpretrain3d.backbones.base import Backbone
from medpretrain3d.backbones.conv_stages import ConvStack, halving_strides, per_stage, stage_levels, stage_widths
from medpretrain3d.values import Channels, Kernels, Layers, NonNegative, Steps

Preset = Literal["XXS", "nnDetection"]


class Width(NamedTuple):
    """Channels and convolutions of each stage."""

    channels: tuple[int, ...]
    convs: tuple[int, ...]


PRESETS: dict[str, Width] = {
    "XXS": Width((8, 16, 32), (2, 2, 2)),  # for tests and smoke runs
    "nnDetection": Width((32, 64, 128, 256, 320, 320), (2, 2, 2, 2, 2, 2)),
}


class PlainConv(Backbone):
    """Two convolutions per stage, each with instance norm and ReLU; the first one of a stage takes the stride.

    One level per stage, the first at full resolution. Parameter names are those of nnU-Net's checkpoints
    (`stages.0.0.convs.0.conv.weight`), without their aliases.

    Args:
        preset: `nnDetection` is the published encoder; None for `channels` and `convs` of your own.
        in_channels: channels of the image.
        strides: stride of each stage along (D, H, W); default 1 for the first, 2 for the others.
        kernel_sizes: kernel of each stage; default 3 everywhere.
        checkpointing: compute each stage's activations again in the backward pass instead of keeping them.
        channels: of each stage.
        convs: convolutions of each stage.
        negative_slope: of the activation: 0 is nnDetection's ReLU, 0.01 the LeakyReLU of nnU-Net.
        pool: what takes the stride of a stage: its first convolution (`stride`), or max pooling before it (`max`).

    Raises:
        UserError: an unknown preset, or sizes, strides or kernels that do not count one per stage.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import PlainConv
        >>> backbone = PlainConv(preset="XXS")
        >>> [tuple(features.shape[1:]) for features in backbone(torch.zeros(1, 1, 16, 16, 16))]
        [(8, 16, 16, 16), (16, 8, 8, 8), (32, 4, 4, 4)]
    """

    citation = "Baumgartner et al., 2021, arXiv:2106.00817"
    sizes = tuple({"preset": preset} for preset in PRESETS)

    def __init__(
        self,
        preset: Preset | None = "nnDetection",
        in_channels: Channels = 1,
        strides: Sequence[Steps] | None = None,
        kernel_sizes: Sequence[Kernels] | None = None,
        checkpointing: bool = False,
        channels: Sequence[Channels] | None = None,
        convs: Sequence[Layers] | None = None,
        negative_slope: NonNegative = 0.0,
        pool: Literal["stride", "max"] = "stride",
    ) -> None:
        super().__init__()
        widths, depths = stage_widths("PlainConv", PRESETS, preset, channels, convs)
        stage_strides = per_stage("PlainConv", "strides", strides, halving_strides(len(widths)))
        stage_kernels = per_stage("PlainConv", "kernel_sizes", kernel_sizes, [(3, 3, 3)] * len(widths))
        self.in_channels = in_channels
        self.checkpointing = checkpointing
        self.depths = depths
        self.levels = stage_levels(widths, stage_strides)
        self.has_pooling = pool == "max"
        whole = [(1, 1, 1)] * len(widths)
        self.pools, conv_strides = (stage_strides, whole) if self.has_pooling else (whole, stage_strides)
        # Each stack stands in a sequence of its own because the published names count it: `stages.0.0.convs`.
        self.stages = nn.ModuleList(
            nn.Sequential(ConvStack(before, width, depth, kernel, stride, negative_slope))
            for before, width, depth, kernel, stride in zip(
                (in_channels, *widths), widths, depths, stage_kernels, conv_strides, strict=False
            )
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map an image (B, C, D, H, W) to one map (B, C_l, D / s_d, H / s_h, W / s_w) per level, finest first."""
        self.check_input(image)
        features = []
        x = image
        for stage, pool in zip(self.stages, self.pools, strict=True):
            x = self.run_block(stage, x if pool == (1, 1, 1) else F.max_pool3d(x, pool))
            features.append(x)
        return features
