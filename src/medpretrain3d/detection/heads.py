"""Convolutional heads, shared over the levels of a pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from medpretrain3d.backbones.convolution import Conv3d

CHANNELS_PER_GROUP = 16


class Head(nn.Module):
    """Predicts values of each box on the cells of a pyramid. Subclasses implement `forward`."""

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Predict values (B, A, V) of pyramid levels (B, C, d, h, w) in the order of `BoxGrid`."""
        raise NotImplementedError("a Head subclass implements forward")


class ClassificationHead(Head):
    """One logit per anchor and class.

    Args:
        channels: of the pyramid.
        anchors_per_cell: anchors of one cell.
        num_classes: foreground classes.
        num_convs: convolutions before the output convolution.
        prior: probability every anchor starts with (Lin et al., 2017, sec. 4.1): the first steps are not spent on
            unlearning a million confident negatives.
    """

    def __init__(
        self, channels: int, anchors_per_cell: int, num_classes: int, num_convs: int, prior: float = 0.01
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.tower = tower(channels, num_convs)
        self.output = _output_conv(channels, anchors_per_cell * num_classes, bias=-math.log((1 - prior) / prior))

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Return pyramid levels (B, C, d, h, w) -> logits (B, A, K) in the order of `AnchorGrid`."""
        return torch.cat([_by_anchor(self.output(self.tower(level)), self.num_classes) for level in pyramid], dim=1)


class BoxHead(Head):
    """Six deltas per anchor, with a learned scale per level (Tian et al., 2019)."""

    def __init__(self, channels: int, anchors_per_cell: int, num_levels: int, num_convs: int) -> None:
        super().__init__()
        self.tower = tower(channels, num_convs)
        self.output = _output_conv(channels, anchors_per_cell * 6)
        self.scale = nn.Parameter(torch.ones(num_levels))

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Return pyramid levels (B, C, d, h, w) -> deltas (B, A, 6) in the order of `AnchorGrid`."""
        deltas = [
            _by_anchor(self.output(self.tower(level)), 6) * scale
            for level, scale in zip(pyramid, self.scale, strict=True)
        ]
        return torch.cat(deltas, dim=1)


class PointHead(BoxHead):
    """Six distances and the logit of the centre-ness per point, from one tower (Tian et al., 2022, sec. 3.3)."""

    def __init__(self, channels: int, num_levels: int, num_convs: int) -> None:
        super().__init__(channels, 1, num_levels, num_convs)
        self.centerness = _output_conv(channels, 1)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Return pyramid levels (B, C, d, h, w) -> distances and centre-ness (B, A, 7)."""
        points = []
        for level, scale in zip(pyramid, self.scale, strict=True):
            features = self.tower(level)
            points.append(_by_anchor(torch.cat([self.output(features) * scale, self.centerness(features)], dim=1), 7))
        return torch.cat(points, dim=1)


class CellHead(Head):
    """Some values per cell of a pyramid of one level."""

    def __init__(self, channels: int, num_values: int, num_convs: int) -> None:
        super().__init__()
        self.num_values = num_values
        self.tower = tower(channels, num_convs)
        self.output = _output_conv(channels, num_values)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Return one level (B, C, d, h, w) -> values (B, A, V) of its cells in the order of `PointGrid`."""
        (level,) = pyramid
        return _by_anchor(self.output(self.tower(level)), self.num_values)


def tower(channels: int, num_convs: int) -> nn.Sequential:
    """Return convolutions of 3 voxels, each with group norm and ReLU, that keep width and size."""
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        groups = max(1, channels // CHANNELS_PER_GROUP)
        # The norm that follows removes a bias.
        layers += [
            Conv3d(channels, channels, 3, padding=1, bias=False),
            nn.GroupNorm(groups if channels % groups == 0 else 1, channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def _output_conv(channels: int, out_channels: int, bias: float = 0.0) -> Conv3d:
    conv = Conv3d(channels, out_channels, 3, padding=1)
    nn.init.normal_(conv.weight, std=0.01)
    conv.bias = nn.Parameter(torch.full((out_channels,), bias))
    return conv


def _by_anchor(output: Tensor, values: int) -> Tensor:
    return rearrange(output, "b (a v) d h w -> b (d h w a) v", v=values)
