"""nnU-Net's residual encoder (Isensee et al., nnU-Net Revisited, 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from medpretrain3d.backbones.base import Backbone, Level
from medpretrain3d.backbones.norm import instance_norm
from medpretrain3d.errors import UserError

Preset = Literal["XXS", "XS", "S", "M", "L", "XL"]
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Width:
    """Channels and residual blocks of each stage."""

    channels: tuple[int, ...]
    blocks: tuple[int, ...]


# L is the published network. The others follow its rule (double the channels up to a cap, more blocks where maps are
# small); XXS is for tests and smoke runs, XS trains on two CPU cores.
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
        preset: size; `L` is the published one with 90,296,576 parameters.
        in_channels: channels of the image.
        strides: stride of each stage along (D, H, W); default 1 for the first, 2 for the others.
        kernel_sizes: kernel of each stage; default 3 everywhere.
        checkpointing: compute each block's activations again in the backward pass instead of keeping them.

    Raises:
        UserError: an unknown preset, or strides or kernels that do not count one per stage.
    """

    citation = "Isensee et al., 2024, arXiv:2404.09556"

    def __init__(
        self,
        preset: Preset = "L",
        in_channels: int = 1,
        strides: Sequence[Triple] | None = None,
        kernel_sizes: Sequence[Triple] | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if preset not in PRESETS:
            raise UserError(f"ResEnc: got preset '{preset}', wanted one of {', '.join(PRESETS)}")
        width = PRESETS[preset]
        num_stages = len(width.channels)
        stage_strides = _per_stage("strides", strides, [(1, 1, 1)] + [(2, 2, 2)] * (num_stages - 1))
        stage_kernels = _per_stage("kernel_sizes", kernel_sizes, [(3, 3, 3)] * num_stages)

        self.in_channels = in_channels
        self.checkpointing = checkpointing
        self.stem = _Stem(in_channels, width.channels[0], stage_kernels[0])
        self.stages = nn.ModuleList()
        levels = []
        channels_in, reached = width.channels[0], (1, 1, 1)
        for channels, blocks, stride, kernel in zip(
            width.channels, width.blocks, stage_strides, stage_kernels, strict=True
        ):
            self.stages.append(_Stage(channels_in, channels, blocks, kernel, stride))
            reached = (reached[0] * stride[0], reached[1] * stride[1], reached[2] * stride[2])
            levels.append(Level(channels, reached))
            channels_in = channels
        self.levels = tuple(levels)
        self.apply(_initialise)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image (B, C, D, H, W) to one map (B, C_l, D / s_d, H / s_h, W / s_w) per level, finest first."""
        self.check_input(image)
        features = []
        x = self.stem(image)
        for stage in self.stages:
            x = stage(x, self.run_block)
            features.append(x)
        return features


class _ConvNormAct(nn.Module):
    """Convolution, instance norm and, unless it closes a residual branch, LeakyReLU."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        kernel: Triple,
        stride: Triple = (1, 1, 1),
        bias: bool = True,
        act: bool = True,
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = nn.Conv3d(channels_in, channels, kernel, stride, padding, bias=bias)
        self.norm = instance_norm(channels)
        self.act = nn.LeakyReLU(0.01, inplace=True) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class _Stem(nn.Module):
    def __init__(self, channels_in: int, channels: int, kernel: Triple) -> None:
        super().__init__()
        self.convs = nn.ModuleList([_ConvNormAct(channels_in, channels, kernel)])

    def forward(self, x: Tensor) -> Tensor:
        return self.convs[0](x)


class _Block(nn.Module):
    """Basic residual block; the shortcut is average pooling and a 1x1x1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels: int, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.conv1 = _ConvNormAct(channels_in, channels, kernel, stride)
        self.conv2 = _ConvNormAct(channels, channels, kernel, act=False)
        shortcut: list[nn.Module] = []
        if any(step > 1 for step in stride):
            shortcut.append(nn.AvgPool3d(stride, stride))
        if channels_in != channels:
            shortcut.append(_ConvNormAct(channels_in, channels, (1, 1, 1), bias=False, act=False))
        self.skip = nn.Sequential(*shortcut)
        self.act = nn.LeakyReLU(0.01, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv2(self.conv1(x)) + self.skip(x))


class _Stage(nn.Module):
    def __init__(self, channels_in: int, channels: int, num_blocks: int, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            _Block(channels_in if i == 0 else channels, channels, kernel, stride if i == 0 else (1, 1, 1))
            for i in range(num_blocks)
        )

    def forward(self, x: Tensor, run_block: Callable[..., Tensor]) -> Tensor:
        for block in self.blocks:
            x = run_block(block, x)
        return x


def _per_stage(name: str, given: Sequence[Triple] | None, default: list[Triple]) -> list[Triple]:
    if given is None:
        return default
    if len(given) != len(default):
        raise UserError(f"ResEnc: got {len(given)} {name}, wanted one per stage ({len(default)})")
    return [(int(d), int(h), int(w)) for d, h, w in given]


def _initialise(module: nn.Module) -> None:
    # He initialisation for LeakyReLU, as nnU-Net does; PyTorch's default is 2.4 times smaller for a 3x3x3 kernel.
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
