"""The 3D U-Net of Models Genesis (Zhou et al., 2021), its encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from medpretrain3d.backbones.base import Backbone, Level, Triple
from medpretrain3d.backbones.convolution import Conv3d
from medpretrain3d.errors import UserError
from medpretrain3d.values import Channels, Steps

STAGES = ("down_tr64", "down_tr128", "down_tr256", "down_tr512")


class GenesisUNet(Backbone):
    """Four stages of two 3x3x3 convolutions with batch norm and ReLU, max pooling between them; 64 to 512 channels.

    Levels start at full resolution. Parameter names are those of Models Genesis' checkpoints and of SuPreM's U-Net.

    Args:
        in_channels: channels of the image.
        strides: of the three poolings along (D, H, W); default 2 everywhere.
        width: channels of the first stage.
        checkpointing: compute each convolution's activations again in the backward pass instead of keeping them.

    Raises:
        UserError: not three strides.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import GenesisUNet
        >>> backbone = GenesisUNet(width=8)
        >>> [tuple(features.shape[1:]) for features in backbone(torch.zeros(1, 1, 16, 16, 16))]
        [(8, 16, 16, 16), (16, 8, 8, 8), (32, 4, 4, 4), (64, 2, 2, 2)]
    """

    citation = "Zhou et al., 2021, doi:10.1016/j.media.2020.101840"
    sizes = ({},)

    def __init__(
        self,
        in_channels: Channels = 1,
        strides: Sequence[Steps] | None = None,
        width: Channels = 64,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        steps: list[Triple] = [(2, 2, 2)] * 3 if strides is None else [(int(d), int(h), int(w)) for d, h, w in strides]
        if len(steps) != 3:
            raise UserError(f"GenesisUNet: got {len(steps)} strides, wanted one for each of the three poolings")
        self.in_channels = in_channels
        self.checkpointing = checkpointing
        self.steps = steps
        channels = in_channels
        levels: list[Level] = []
        for index, name in enumerate(STAGES):
            out = width * 2**index
            self.add_module(name, _Stage(channels, out // 2, out))
            d, h, w = (1, 1, 1) if not levels else _times(levels[-1].stride, steps[index - 1])
            levels.append(Level(out, (d, h, w)))
            channels = out
        self.levels = tuple(levels)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map an image (B, C, D, H, W) to one map (B, C_l, D / s_d, H / s_h, W / s_w) per level, finest first."""
        self.check_input(image)
        x, features = image, []
        for index, name in enumerate(STAGES):
            if index:
                x = F.max_pool3d(x, self.steps[index - 1])
            for layer in self.get_submodule(f"{name}.ops").children():
                x = self.run_block(layer, x)
            features.append(x)
        return features


class _Stage(nn.Module):
    def __init__(self, channels_in: int, middle: int, channels: int) -> None:
        super().__init__()
        self.ops = nn.Sequential(_ConvNormAct(channels_in, middle), _ConvNormAct(middle, channels))


class _ConvNormAct(nn.Module):
    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv1 = Conv3d(channels_in, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(x)), inplace=True)


def _times(a: Triple, b: Triple) -> Triple:
    return (a[0] * b[0], a[1] * b[1], a[2] * b[2])
