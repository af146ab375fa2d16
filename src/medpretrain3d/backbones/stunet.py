"""STU-Net's encoder (Huang et al., 2023): residual stages whose shortcuts are strided convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from medpretrain3d.backbones.base import Backbone, Triple
from medpretrain3d.backbones.conv_stages import halving_strides, per_stage, stage_levels
from medpretrain3d.backbones.convolution import Conv3d
from medpretrain3d.backbones.norm import instance_norm
from medpretrain3d.errors import UserError
from medpretrain3d.values import Channels, Layers, Steps

Preset = Literal["XXS", "S", "B", "L", "H"]


class Size(NamedTuple):
    """Channels of the first stage, and blocks of each."""

    width: int
    blocks: int


# S to H are the published networks; XXS is for tests and smoke runs.
PRESETS: dict[str, Size] = {"XXS": Size(4, 1), "S": Size(16, 1), "B": Size(32, 1), "L": Size(64, 2), "H": Size(96, 3)}
GROWTH = (1, 2, 4, 8, 16, 16)
NEGATIVE_SLOPE = 0.01


class STUNet(Backbone):
    """Six stages of residual blocks with instance norm, from full resolution on; a 1x1x1 shortcut begins each stage.

    Parameter names are those of the published code (`conv_blocks_context.0.0.conv1.weight`).

    Args:
        preset: published size; None for `width` and `blocks` of your own.
        in_channels: channels of the image.
        strides: of each stage along (D, H, W); default 1 for the first, 2 for the others.
        checkpointing: compute each block's activations again in the backward pass instead of keeping them.
        width: channels of the first stage; the others have 2, 4, 8, 16 and 16 times as many.
        blocks: in each stage.

    Raises:
        UserError: an unknown preset, sizes of one's own beside a preset, or strides that do not count six.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import STUNet
        >>> backbone = STUNet(preset="XXS")
        >>> [tuple(features.shape[1:]) for features in backbone(torch.zeros(1, 1, 64, 32, 32))][-2:]
        [(64, 4, 2, 2), (64, 2, 1, 1)]
    """

    citation = "Huang et al., 2023, arXiv:2304.06716"
    sizes = tuple({"preset": preset} for preset in PRESETS)
    tiny = MappingProxyType(
        {
            "preset": None,
            "width": 2,
            "blocks": 1,
            "strides": ((1, 1, 1), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 1, 1), (1, 1, 1)),
        }
    )

    def __init__(
        self,
        preset: Preset | None = "B",
        in_channels: Channels = 1,
        strides: Sequence[Steps] | None = None,
        checkpointing: bool = False,
        width: Channels | None = None,
        blocks: Layers | None = None,
    ) -> None:
        super().__init__()
        size = _size(preset, width, blocks)
        widths = [size.width * factor for factor in GROWTH]
        stage_strides = per_stage("STUNet", "strides", strides, halving_strides(len(GROWTH)))
        self.in_channels = in_channels
        self.checkpointing = checkpointing
        self.levels = stage_levels(widths, stage_strides)
        self.conv_blocks_context = nn.ModuleList(
            nn.Sequential(
                _Block(before, channels, stride), *(_Block(channels, channels) for _ in range(size.blocks - 1))
            )
            for before, channels, stride in zip((in_channels, *widths), widths, stage_strides, strict=False)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map an image (B, C, D, H, W) to one map (B, C_l, D / s_d, H / s_h, W / s_w) per level, finest first."""
        self.check_input(image)
        x, features = image, []
        for stage in self.conv_blocks_context:
            for block in stage.children():
                x = self.run_block(block, x)
            features.append(x)
        return features


class _Block(nn.Module):
    """Two convolutions with instance norm; with a stride given, a 1x1x1 convolution on the shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: Triple | None = None) -> None:
        super().__init__()
        step = stride or (1, 1, 1)
        self.conv1 = Conv3d(channels_in, channels, 3, step, 1)
        self.norm1 = instance_norm(channels)
        self.conv2 = Conv3d(channels, channels, 3, 1, 1)
        self.norm2 = instance_norm(channels)
        self.conv3 = None if stride is None else nn.Conv3d(channels_in, channels, 1, step)
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight, a=NEGATIVE_SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        residual = F.leaky_relu(self.norm1(self.conv1(x)), NEGATIVE_SLOPE)
        shortcut = x if self.conv3 is None else self.conv3(x)
        return F.leaky_relu(self.norm2(self.conv2(residual)) + shortcut, NEGATIVE_SLOPE)


def _size(preset: str | None, width: int | None, blocks: int | None) -> Size:
    if preset is None:
        if width is None or blocks is None:
            raise UserError(f"STUNet: without a preset, wanted width and blocks, got {width} and {blocks}")
        return Size(width, blocks)
    if preset not in PRESETS:
        raise UserError(f"STUNet: got preset '{preset}', wanted one of {', '.join(PRESETS)}")
    if (width, blocks) != (None, None):
        raise UserError(f"STUNet: got preset '{preset}' and a width or blocks; set preset to null for your own")
    return PRESETS[preset]
