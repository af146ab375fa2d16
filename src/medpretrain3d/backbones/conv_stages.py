"""Building blocks of nnU-Net's two convolutional encoders, and the per-stage settings of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from medpretrain3d.backbones.base import Level, Triple
from medpretrain3d.backbones.convolution import Conv3d
from medpretrain3d.backbones.norm import instance_norm
from medpretrain3d.errors import UserError


class ConvNormAct(nn.Module):
    """Convolution, instance norm and, unless it closes a residual branch, LeakyReLU.

    Args:
        channels_in: of the input.
        channels: of the output.
        kernel: odd edges (D, H, W); the size is kept at stride 1.
        stride: along (D, H, W).
        bias: of the convolution.
        negative_slope: of the LeakyReLU, 0 for a ReLU; `None` for no activation.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        kernel: Triple,
        stride: Triple = (1, 1, 1),
        bias: bool = True,
        negative_slope: float | None = 0.01,
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = Conv3d(channels_in, channels, kernel, stride, padding, bias=bias)
        self.norm = instance_norm(channels)
        self.act = nn.Identity() if negative_slope is None else nn.LeakyReLU(negative_slope, inplace=True)
        # He initialisation for LeakyReLU, as nnU-Net does; PyTorch's default is 2.4 times smaller for a 3x3x3 kernel.
        nn.init.kaiming_normal_(self.conv.weight, a=0.01)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map an image (B, C_in, D, H, W) to (B, C, D / s_d, H / s_h, W / s_w)."""
        result: Tensor = self.act(self.norm(self.conv(x)))
        return result


class ConvStack(nn.Module):
    """Several `ConvNormAct` in a row; the first one takes the stride."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        count: int,
        kernel: Triple,
        stride: Triple = (1, 1, 1),
        negative_slope: float = 0.01,
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *(
                ConvNormAct(
                    channels if i else channels_in,
                    channels,
                    kernel,
                    (1, 1, 1) if i else stride,
                    negative_slope=negative_slope,
                )
                for i in range(count)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map an image (B, C_in, D, H, W) to (B, C, D / s_d, H / s_h, W / s_w)."""
        result: Tensor = self.convs(x)
        return result


def stage_widths(
    family: str,
    presets: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
    preset: str | None,
    *own: Sequence[int] | None,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return channels and depth of each stage: those of a preset, or the caller's own where the preset is None.

    Raises:
        UserError: an unknown preset, a preset together with own numbers, or own numbers that do not count alike.
    """
    channels, depths = own
    if preset is not None:
        if preset not in presets:
            raise UserError(f"{family}: got preset '{preset}', wanted one of {', '.join(presets)}")
        if channels is not None or depths is not None:
            raise UserError(f"{family}: got preset '{preset}' and sizes of each stage; set preset to null for your own")
        return presets[preset]
    if not channels or not depths or len(channels) != len(depths):
        raise UserError(
            f"{family}: without a preset, wanted one number of channels and one of blocks per stage, got {channels} "
            f"and {depths}"
        )
    return tuple(int(count) for count in channels), tuple(int(count) for count in depths)


def per_stage(family: str, what: str, given: Sequence[Triple] | None, default: list[Triple]) -> list[Triple]:
    """Return one triple per stage; the default where none are given.

    Raises:
        UserError: another number of triples than stages.
    """
    if given is None:
        return default
    if len(given) != len(default):
        raise UserError(f"{family}: got {len(given)} {what}, wanted one per stage ({len(default)})")
    return [(int(d), int(h), int(w)) for d, h, w in given]


def halving_strides(num_stages: int) -> list[Triple]:
    """Return full resolution first, then half of it at each stage."""
    return [(1, 1, 1)] + [(2, 2, 2)] * (num_stages - 1)


def stage_levels(channels: Sequence[int], strides: Sequence[Triple]) -> tuple[Level, ...]:
    """Return the pyramid of an encoder whose stages have these channels and strides."""
    levels, reached = [], (1, 1, 1)
    for count, stride in zip(channels, strides, strict=True):
        reached = (reached[0] * stride[0], reached[1] * stride[1], reached[2] * stride[2])
        levels.append(Level(count, reached))
    return tuple(levels)
