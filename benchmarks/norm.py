"""Instance norm as group norm against PyTorch's own, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from benchmarks.timing import Row, race
from medpretrain3d.backbones.norm import instance_norm


def rows() -> Iterator[Row]:
    image = torch.randn(2, 16, 64, 64, 64, requires_grad=True)
    gradient = torch.randn(2, 16, 64, 64, 64)
    theirs, ours = nn.InstanceNorm3d(16, affine=True), instance_norm(16)
    torch.testing.assert_close(ours(image), theirs(image))
    yield race(
        "instance norm of (2, 16, 64, 64, 64), forward, backward",
        "torch InstanceNorm3d",
        lambda: theirs(image).backward(gradient),
        lambda: ours(image).backward(gradient),
    )
