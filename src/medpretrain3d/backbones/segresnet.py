"""SegResNet's encoder (Myronenko, 2018)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from medpretrain3d.backbones.base import Backbone, Level, Triple
from medpretrain3d.backbones.convolution import Conv3d
from medpretrain3d.backbones.norm import instance_norm
from medpretrain3d.errors import UserError
from medpretrain3d.values import Channels, Layers, Steps

BLOCKS = (1, 2, 2, 4)
NUM_GROUPS = 8


Norm = Literal["group", "batch", "instance", "none"]
NORMS: dict[Norm, Callable[[int], nn.Module]] = {
    "group": lambda channels: nn.GroupNorm(NUM_GROUPS, channels),
    "batch": nn.BatchNorm3d,
    "instance": instance_norm,
    "none": lambda channels: nn.Identity(),
}


class SegResNet(Backbone):
    """Pre-activation residual blocks, strided convolutions between the stages; full resolution first.

    Parameter names are those of MONAI's `SegResNet`, which SuPreM's checkpoints follow. With five stages and batch norm
    this is MONAI's `SegResEncoder` as CT-FM trained it, with instance norm as VISTA3D did.

    Args:
        width: channels of the first stage, a multiple of 8; doubled per stage.
        in_channels: channels of the image.
        strides: of the steps down along (D, H, W), one less than there are stages; default 2 everywhere.
        checkpointing: compute each block's activations again in the backward pass instead of keeping them.
        blocks: residual blocks of each stage; by default four stages of 1, 2, 2 and 4.
        norm: `group` (of 8) is the published network; `batch` fits CT-FM's weights, `instance` VISTA3D's and batches of
            one or two; `none` is a network without.
        freeze_statistics: of `batch`: keep the statistics that an encoder file brought instead of those of each batch.

    Raises:
        UserError: a width that the groups do not divide, or another number of strides.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import SegResNet
        >>> backbone = SegResNet(width=8)
        >>> [tuple(features.shape[1:]) for features in backbone(torch.zeros(1, 1, 16, 16, 16))]
        [(8, 16, 16, 16), (16, 8, 8, 8), (32, 4, 4, 4), (64, 2, 2, 2)]
    """

    citation = "Myronenko, 2018, arXiv:1810.11654"
    sizes = ({"width": 16}, {"width": 32})

    def __init__(
        self,
        width: Channels = 16,
        in_channels: Channels = 1,
        strides: Sequence[Steps] | None = None,
        checkpointing: bool = False,
        blocks: Sequence[Layers] = BLOCKS,
        norm: Norm = "group",
        freeze_statistics: bool = True,
    ) -> None:
        super().__init__()
        if norm == "group" and width % NUM_GROUPS:
            raise UserError(f"SegResNet: got width {width}, wanted a multiple of {NUM_GROUPS} such as 16 or 32")
        num_steps = len(blocks) - 1
        default: list[Triple] = [(2, 2, 2)] * num_steps
        steps = default if strides is None else [(int(d), int(h), int(w)) for d, h, w in strides]
        if len(steps) != num_steps or num_steps < 0:
            raise UserError(
                f"SegResNet: got {len(steps)} strides, wanted one for each of the {max(0, num_steps)} steps down "
                f"between {len(blocks)} stages"
            )
        self.freeze_statistics = freeze_statistics
        self.width = width
        self.in_channels = in_channels
        self.checkpointing = checkpointing
        self.convInit = _Conv(in_channels, width)
        self.down_layers = nn.ModuleList()
        levels: list[Level] = []
        for index, num_blocks in enumerate(blocks):
            channels = width * 2**index
            down: nn.Module = nn.Identity() if not index else _Conv(channels // 2, channels, steps[index - 1])
            self.down_layers.append(nn.Sequential(down, *(_Block(channels, NORMS[norm]) for _ in range(num_blocks))))
            before = levels[-1].stride if levels else (1, 1, 1)
            d, h, w = (a * b for a, b in zip(before, steps[index - 1] if index else (1, 1, 1), strict=True))
            levels.append(Level(channels, (d, h, w)))
        self.levels = tuple(levels)

    @property
    def name(self) -> str:
        """Model name, as in `SegResNet-16`."""
        return f"SegResNet-{self.width}"

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map an image (B, C, D, H, W) to one map (B, C_l, D / s_d, H / s_h, W / s_w) per level, finest first."""
        self.check_input(image)
        x = self.convInit(image)
        features = []
        for stage in self.down_layers:
            for block in stage.children():
                x = self.run_block(block, x)
            features.append(x)
        return features


class _Conv(nn.Module):
    """MONAI keeps a bare convolution under the name `conv`."""

    def __init__(self, channels_in: int, channels: int, stride: Triple = (1, 1, 1)) -> None:
        super().__init__()
        self.conv = Conv3d(channels_in, channels, 3, stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x)
        return result


class _Block(nn.Module):
    def __init__(self, channels: int, make_norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm1 = make_norm(channels)
        self.norm2 = make_norm(channels)
        self.conv1 = _Conv(channels, channels)
        self.conv2 = _Conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv1(F.relu(self.norm1(x)))
        result: Tensor = x + self.conv2(F.relu(self.norm2(residual)))
        return result
