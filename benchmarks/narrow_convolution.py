"""Convolutions of few channels against PyTorch's own, forward and backward, as Retina U-Net on ResEnc-XXS has them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

from benchmarks.timing import Row, race
from medpretrain3d.backbones.convolution import Conv3d

MAPS = ((8, 8, 48), (8, 2, 48), (24, 24, 24))
"""Channels, channels of the result, voxels along an edge."""


def rows() -> Iterator[Row]:
    for channels_in, channels, edge in MAPS:
        image = torch.randn(4, channels_in, edge, edge, edge, requires_grad=True)
        gradient = torch.randn(4, channels, edge, edge, edge)
        theirs, ours = nn.Conv3d(channels_in, channels, 3, padding=1), Conv3d(channels_in, channels, 3, padding=1)
        ours.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(ours(image), theirs(image))
        yield race(
            f"convolution of {channels_in} to {channels} channels at (4, {edge}, {edge}, {edge})",
            "torch Conv3d",
            partial(_step, theirs, image, gradient),
            partial(_step, ours, image, gradient),
        )


def _step(layer: nn.Module, image: torch.Tensor, gradient: torch.Tensor) -> None:
    layer(image).backward(gradient)
