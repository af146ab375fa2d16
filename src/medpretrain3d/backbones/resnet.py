"""3D residual networks (He et al., 2016; Hara et al., 2018) as MedicalNet published them (Chen et al., 2019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from medpretrain3d.backbones.base import Backbone, Level, Triple
from medpretrain3d.backbones.convolution import Conv3d
from medpretrain3d.backbones.norm import instance_norm
from medpretrain3d.errors import UserError
from medpretrain3d.values import Channels, Kernels, Steps

Depth = Literal[10, 18, 34, 50, 101, 152, 200]
Norm = Callable[[int], nn.Module]


class Variant(NamedTuple):
    """Blocks per stage; whether they are bottlenecks; MedicalNet's shortcut type."""

    blocks: tuple[int, int, int, int]
    is_bottleneck: bool
    shortcut: Literal["A", "B"]


# 18 and 34 were trained with shortcut A, the others with B: weights of one do not fit the other.
VARIANTS: dict[int, Variant] = {
    10: Variant((1, 1, 1, 1), False, "B"),
    18: Variant((2, 2, 2, 2), False, "A"),
    34: Variant((3, 4, 6, 3), False, "A"),
    50: Variant((3, 4, 6, 3), True, "B"),
    101: Variant((3, 4, 23, 3), True, "B"),
    152: Variant((3, 8, 36, 3), True, "B"),
    200: Variant((3, 24, 36, 3), True, "B"),
}
EXPANSION = 4  # output channels of a bottleneck per inner channel


class ResNet3D(Backbone):
    """Stem of 7x7x7 at stride 2 and max pooling, then four stages; parameter names are MedicalNet's.

    A shortcut that changes shape is, of type A, every second voxel and channels of zeros, of type B a 1x1x1 convolution
    and a norm. MedicalNet's weights were trained with the last two stages dilated instead of strided (`is_dilated`);
    MONAI loads the same weights into the strided form.

    Args:
        depth: 10, 18, 34, 50, 101, 152 or 200 layers.
        in_channels: channels of the image.
        is_dilated: the last two stages keep the stride of the second and dilate by 2 and 4; one level per resolution is
            returned, the last map at it.
        strides: along (D, H, W) of the stem's convolution, its pooling, and stages 2, 3 and 4; default 2 everywhere.
        shortcut: `None` is the published type of that depth.
        norm: `batch` fits MedicalNet's weights; `instance` suits batches of one or two volumes per process.
        width: channels of the first stage.
        stem_kernel: of the first convolution along (D, H, W), odd; Merlin's is (3, 7, 7).
        freeze_statistics: of `batch`: keep the statistics that an encoder file brought instead of those of each batch.
        checkpointing: compute each block's activations again in the backward pass instead of keeping them.

    Raises:
        UserError: an unknown depth, an even stem, not five strides, or strides of a dilated stage.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResNet3D
        >>> backbone = ResNet3D(depth=10, width=8, norm="instance")
        >>> [tuple(features.shape[1:]) for features in backbone(torch.zeros(1, 1, 64, 32, 32))]
        [(8, 32, 16, 16), (8, 16, 8, 8), (16, 8, 4, 4), (32, 4, 2, 2), (64, 2, 1, 1)]
    """

    citation = "Chen et al., 2019, arXiv:1904.00625"
    sizes = tuple({"depth": depth} for depth in VARIANTS)

    def __init__(
        self,
        depth: Depth = 50,
        in_channels: Channels = 1,
        is_dilated: bool = False,
        strides: Sequence[Steps] | None = None,
        shortcut: Literal["A", "B"] | None = None,
        norm: Literal["batch", "instance"] = "batch",
        width: Channels = 64,
        checkpointing: bool = False,
        stem_kernel: Kernels = (7, 7, 7),
        freeze_statistics: bool = True,
    ) -> None:
        super().__init__()
        if any(edge % 2 == 0 for edge in stem_kernel):
            raise UserError(f"ResNet3D: got stem_kernel {tuple(stem_kernel)}, wanted odd edges such as (3, 7, 7)")
        if depth not in VARIANTS:
            raise UserError(f"ResNet3D: got depth {depth}, wanted one of {', '.join(map(str, VARIANTS))}")
        variant = VARIANTS[depth]
        stem, pool, *later = _five_strides(strides, is_dilated)
        make_norm: Norm = nn.BatchNorm3d if norm == "batch" else instance_norm
        self.depth = depth
        self.in_channels = in_channels
        self.checkpointing = checkpointing
        self.freeze_statistics = freeze_statistics
        kd, kh, kw = stem_kernel
        self.conv1 = nn.Conv3d(in_channels, width, (kd, kh, kw), stem, (kd // 2, kh // 2, kw // 2), bias=False)
        self.bn1 = make_norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, pool, 1)
        levels = [Level(width, stem)]
        channels, reached = width, _times(stem, pool)
        plan = zip(variant.blocks, [(1, 1, 1), *later], (1, 1, 2, 4) if is_dilated else (1, 1, 1, 1), strict=True)
        for index, (num_blocks, stride, dilation) in enumerate(plan):
            inner = width * 2**index
            stage = nn.Sequential()
            for number in range(num_blocks):
                step = stride if number == 0 else (1, 1, 1)
                block = _Block(
                    channels, inner, step, dilation, variant.is_bottleneck, shortcut or variant.shortcut, make_norm
                )
                stage.append(block)
                channels = block.out_channels
            self.add_module(f"layer{index + 1}", stage)
            reached = _times(reached, stride)
            levels.append(Level(channels, reached))
        last_at = {level.stride: level for level in levels}  # the last of those at one resolution
        self.levels = tuple(last_at.values())
        self.apply(_initialize)

    @property
    def name(self) -> str:
        """Model name, as in `ResNet3D-50`."""
        return f"ResNet3D-{self.depth}"

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map an image (B, C, D, H, W) to one map (B, C_l, D / s_d, H / s_h, W / s_w) per level, finest first."""
        self.check_input(image)
        x = self.relu(self.bn1(self.conv1(image)))
        features = [x]
        x = self.maxpool(x)
        for index in range(1, 5):
            for block in self.get_submodule(f"layer{index}").children():
                x = self.run_block(block, x)
            if x.shape[2:] == features[-1].shape[2:]:
                features.pop()
            features.append(x)
        return features


class _Block(nn.Module):
    """Two 3x3x3 convolutions, or 1-3-1 around a narrower middle; added to the shortcut before the last ReLU."""

    def __init__(
        self,
        channels_in: int,
        inner: int,
        stride: Triple,
        dilation: int,
        is_bottleneck: bool,
        shortcut: Literal["A", "B"],
        norm: Norm,
    ) -> None:
        super().__init__()
        self.out_channels = inner * EXPANSION if is_bottleneck else inner
        self.stride = stride
        self.is_bottleneck = is_bottleneck
        wide = partial(Conv3d, kernel_size=3, padding=dilation, dilation=dilation, bias=False)
        if is_bottleneck:
            self.conv1 = nn.Conv3d(channels_in, inner, 1, bias=False)
            self.conv2 = wide(inner, inner, stride=stride)
            self.conv3 = nn.Conv3d(inner, self.out_channels, 1, bias=False)
            self.bn3 = norm(self.out_channels)
        else:
            self.conv1 = wide(channels_in, inner, stride=stride)
            self.conv2 = wide(inner, inner)
        self.bn1, self.bn2 = norm(inner), norm(inner)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if shortcut == "B" and (stride != (1, 1, 1) or channels_in != self.out_channels):
            projection = nn.Conv3d(channels_in, self.out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, norm(self.out_channels))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        if self.is_bottleneck:
            residual = self.bn3(self.conv3(self.relu(residual)))
        result: Tensor = self.relu(residual + self._shortcut(x))
        return result

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.downsample is not None:
            result: Tensor = self.downsample(x)
            return result
        d, h, w = self.stride
        x = x[:, :, ::d, ::h, ::w]
        return F.pad(x, (0, 0, 0, 0, 0, 0, 0, self.out_channels - x.shape[1]))  # type A: new channels are zero


def _five_strides(given: Sequence[Triple] | None, is_dilated: bool) -> list[Triple]:
    unstrided: Triple = (1, 1, 1)
    default: list[Triple] = [(2, 2, 2)] * 3 + [unstrided if is_dilated else (2, 2, 2)] * 2
    if given is None:
        return default
    strides = [(int(d), int(h), int(w)) for d, h, w in given]
    if len(strides) != 5:
        raise UserError(
            f"ResNet3D: got {len(strides)} strides, wanted five: of the stem's convolution, its pooling, stages 2 to 4"
        )
    if is_dilated and strides[3:] != [unstrided] * 2:
        raise UserError(
            f"ResNet3D: got is_dilated and strides {strides[3:]} of stages 3 and 4, wanted (1, 1, 1) there: dilation "
            "stands in for the stride; leave one of the two out"
        )
    return strides


def _times(a: Triple, b: Triple) -> Triple:
    return (a[0] * b[0], a[1] * b[1], a[2] * b[2])


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
