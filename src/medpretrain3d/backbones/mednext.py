"""MedNeXt's encoder (Roy et al., 2023): ConvNeXt blocks for volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from medpretrain3d.backbones.base import Backbone, Level, Triple
from medpretrain3d.backbones.norm import instance_norm
from medpretrain3d.errors import UserError
from medpretrain3d.values import Channels, Kernel, Steps

Preset = Literal["XXS", "S", "B", "M", "L"]


class Size(NamedTuple):
    """Channels of the first stage; blocks and expansion of each of the five."""

    width: int
    blocks: tuple[int, ...]
    expansion: tuple[int, ...]


# S to L are the published networks; XXS is for tests and smoke runs.
PRESETS: dict[str, Size] = {
    "XXS": Size(8, (1, 1, 1, 1, 1), (2, 2, 2, 2, 2)),
    "S": Size(32, (2, 2, 2, 2, 2), (2, 2, 2, 2, 2)),
    "B": Size(32, (2, 2, 2, 2, 2), (2, 3, 4, 4, 4)),
    "M": Size(32, (3, 4, 4, 4, 4), (2, 3, 4, 4, 4)),
    "L": Size(32, (3, 4, 8, 8, 8), (3, 4, 8, 8, 8)),
}


class MedNeXt(Backbone):
    """Depthwise convolution, norm, expansion, GELU, compression, residual; five levels, the first at full resolution.

    Parameter names are those of the published code (`stem`, `enc_block_0.0.conv1`, `down_0.res_conv`, `bottleneck.0`).

    Args:
        preset: size.
        in_channels: channels of the image.
        kernel_size: of the depthwise convolutions; published are 3 and 5.
        strides: of the four steps down, along (D, H, W); default 2 everywhere.
        checkpointing: compute each block's activations again in the backward pass instead of keeping them.

    Raises:
        UserError: an unknown preset, an even kernel, or not four strides.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import MedNeXt
        >>> backbone = MedNeXt(preset="XXS")
        >>> [tuple(features.shape[1:]) for features in backbone(torch.zeros(1, 1, 32, 32, 32))]
        [(8, 32, 32, 32), (16, 16, 16, 16), (32, 8, 8, 8), (64, 4, 4, 4), (128, 2, 2, 2)]
    """

    citation = "Roy et al., 2023, arXiv:2303.09975"
    sizes = tuple({"preset": preset, "kernel_size": kernel} for preset in PRESETS for kernel in (3, 5))

    def __init__(
        self,
        preset: Preset = "B",
        in_channels: Channels = 1,
        kernel_size: Kernel = 3,
        strides: Sequence[Steps] | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if preset not in PRESETS:
            raise UserError(f"MedNeXt: got preset '{preset}', wanted one of {', '.join(PRESETS)}")
        if kernel_size % 2 == 0:
            raise UserError(f"MedNeXt: got kernel_size {kernel_size}, wanted an odd one such as 3 or 5")
        size = PRESETS[preset]
        steps: list[Triple] = [(2, 2, 2)] * 4 if strides is None else [(int(d), int(h), int(w)) for d, h, w in strides]
        if len(steps) != 4:
            raise UserError(f"MedNeXt: got {len(steps)} strides, wanted one for each of the four steps down")
        self.kernel_size = kernel_size
        self.in_channels = in_channels
        self.checkpointing = checkpointing
        self.stem = nn.Conv3d(in_channels, size.width, 1)
        levels = [Level(size.width, (1, 1, 1))]
        for index, (num_blocks, expansion) in enumerate(zip(size.blocks, size.expansion, strict=True)):
            width = size.width * 2**index
            if index:
                down = _Block(width // 2, width, expansion, kernel_size, steps[index - 1])
                self.add_module(f"down_{index - 1}", down)
                d, h, w = (a * b for a, b in zip(levels[-1].stride, steps[index - 1], strict=True))
                levels.append(Level(width, (d, h, w)))
            blocks = nn.Sequential(*(_Block(width, width, expansion, kernel_size) for _ in range(num_blocks)))
            self.add_module(f"enc_block_{index}" if index < 4 else "bottleneck", blocks)
        self.levels = tuple(levels)

    @property
    def name(self) -> str:
        """Model name, as in `MedNeXt-B-k3`."""
        return f"{super().name}-k{self.kernel_size}"

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map an image (B, C, D, H, W) to one map (B, C_l, D / s_d, H / s_h, W / s_w) per level, finest first."""
        self.check_input(image)
        x = self.stem(image)
        features = []
        for index in range(5):
            if index:
                x = self.run_block(self.get_submodule(f"down_{index - 1}"), x)
            blocks = self.get_submodule(f"enc_block_{index}" if index < 4 else "bottleneck")
            for block in blocks.children():
                x = self.run_block(block, x)
            features.append(x)
        return features


class _Block(nn.Module):
    """One ConvNeXt block; with a stride, its shortcut is a strided 1x1x1 convolution and it changes the width."""

    def __init__(
        self, channels_in: int, channels: int, expansion: int, kernel: int, stride: Triple | None = None
    ) -> None:
        super().__init__()
        step = stride or (1, 1, 1)
        self.conv1 = nn.Conv3d(channels_in, channels_in, kernel, step, kernel // 2, groups=channels_in)
        self.norm = instance_norm(channels_in)
        self.conv2 = nn.Conv3d(channels_in, expansion * channels_in, 1)
        self.conv3 = nn.Conv3d(expansion * channels_in, channels, 1)
        self.res_conv = nn.Conv3d(channels_in, channels, 1, step) if stride else None

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv3(F.gelu(self.conv2(self.norm(self.conv1(x)))))
        result: Tensor = residual + (x if self.res_conv is None else self.res_conv(x))
        return result
