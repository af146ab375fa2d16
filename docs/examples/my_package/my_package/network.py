"""A backbone of one's own."""

from __future__ import annotations

from torch import Tensor, nn

from medpretrain3d.backbones import Backbone, Level
from medpretrain3d.values import Channels


class PlainNet(Backbone):
    """Two strided convolutions.

    Args:
        width: channels of the finer level, doubled in the coarser one.
        in_channels: of the image.
        checkpointing: compute activations again in the backward pass instead of keeping them.
    """

    citation = "A. Researcher, 2026, arXiv:0000.00000"
    sizes = ({}, {"width": 4})

    def __init__(self, width: Channels = 16, in_channels: Channels = 1, checkpointing: bool = False) -> None:
        super().__init__()
        self.in_channels, self.checkpointing = in_channels, checkpointing
        self.levels = (Level(width, (2, 2, 2)), Level(2 * width, (4, 4, 4)))
        self.stages = nn.ModuleList([_stage(in_channels, width), _stage(width, 2 * width)])

    def forward(self, image: Tensor) -> list[Tensor]:
        """One map per level, finest first."""
        self.check_input(image)
        features = [self.run_block(self.stages[0], image)]
        return [*features, self.run_block(self.stages[1], features[0])]


def _stage(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.Conv3d(in_channels, out_channels, 3, stride=2, padding=1)
    return nn.Sequential(conv, nn.GroupNorm(1, out_channels), nn.LeakyReLU(0.01))
