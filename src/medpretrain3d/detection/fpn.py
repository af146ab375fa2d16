"""Feature pyramid network: coarse meaning carried down to fine levels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medpretrain3d.backbones.base import Level


class FPN(nn.Module):
    """Lateral 1x1x1 convolutions, learned upsampling, addition, one output convolution (Lin et al., 2017).

    Only the levels asked for own an output convolution, so that no parameter is left without a gradient.

    Args:
        levels: of the backbone, finest first; all of them feed the top-down path.
        channels: width of the pyramid on each of the levels.
        outputs: indices into `levels` of those wanted; the finest level must be among them.
    """

    def __init__(self, levels: Sequence[Level], channels: Sequence[int], outputs: Sequence[int]) -> None:
        super().__init__()
        self.outputs = tuple(outputs)
        self.lateral = nn.ModuleList(
            nn.Conv3d(level.channels, width, 1) for level, width in zip(levels, channels, strict=True)
        )
        self.upsample = nn.ModuleList()
        for index in range(len(levels) - 1):
            step = _step(levels[index], levels[index + 1])
            self.upsample.append(nn.ConvTranspose3d(channels[index + 1], channels[index], step, stride=step))
        self.output = nn.ModuleDict(
            {str(index): nn.Conv3d(channels[index], channels[index], 3, padding=1) for index in self.outputs}
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Backbone features, finest first -> the pyramid's `outputs`, in their order."""
        merged = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        for index in reversed(range(len(merged) - 1)):
            above = self.upsample[index](merged[index + 1])
            # A size that the stride does not divide gives one cell more on the way up than there was on the way down.
            d, h, w = merged[index].shape[2:]
            merged[index] = merged[index] + above[:, :, :d, :h, :w]
        return [self.output[str(index)](merged[index]) for index in self.outputs]


def _step(finer: Level, coarser: Level) -> tuple[int, int, int]:
    d, h, w = (b // a for a, b in zip(finer.stride, coarser.stride, strict=True))
    return d, h, w
