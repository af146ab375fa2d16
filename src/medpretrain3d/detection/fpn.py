"""Feature pyramid network: coarse meaning carried down to fine levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from medpretrain3d.backbones.base import Level
from medpretrain3d.backbones.convolution import Conv3d


class Neck(nn.Module):
    """Makes the features of the detection levels out of a backbone's. Subclasses implement `forward`."""

    def forward(self, features: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return maps (B, C, d, h, w) of the detection levels of maps of the backbone's, both finest first."""
        raise NotImplementedError("a Neck subclass implements forward")


class FPN(Neck):
    """Lateral 1x1x1 convolutions, learned upsampling, addition, one output convolution (Lin et al., 2017).

    Only the levels asked for own an output convolution, so that no parameter is left without a gradient.

    Args:
        levels: of the backbone, finest first; all of them feed the top-down path.
        channels: width of the pyramid on each of the levels.
        outputs: indices into `levels` of those wanted; the finest level must be among them.
    """

    def __init__(self, levels: Sequence[Level], channels: Sequence[int], outputs: Sequence[int]) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.outputs = tuple(outputs)
        self.lateral = nn.ModuleList(
            nn.Conv3d(level.channels, width, 1) for level, width in zip(levels, channels, strict=True)
        )
        self.upsample = nn.ModuleList()
        for index in range(len(levels) - 1):
            step = _step(levels[index], levels[index + 1])
            self.upsample.append(nn.ConvTranspose3d(channels[index + 1], channels[index], step, stride=step))
        self.output = nn.ModuleDict(
            {str(index): Conv3d(channels[index], channels[index], 3, padding=1) for index in self.outputs}
        )

    @classmethod
    def down_to(cls, levels: Sequence[Level], first_level: int, num_outputs: int, channels: int) -> FPN:
        """Return the pyramid from a backbone's coarsest level down to one of its levels, and nothing finer.

        Args:
            levels: of the backbone, finest first.
            first_level: the finest.
            num_outputs: levels that it returns, from the finest on.
            channels: its width.
        """
        used = levels[first_level:]
        return cls(used, [channels] * len(used), range(num_outputs))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return backbone features, finest first -> the pyramid's `outputs`, in order; finer ones are left out."""
        features = features[len(features) - len(self.lateral) :]
        return self.refine(self.merge(features, min(self.outputs)), self.outputs)

    def merge(self, features: Sequence[Tensor], finest: int = 0) -> dict[int, Tensor]:
        """The top-down path: backbone features, finest first -> by index, the levels from `finest` on and no finer."""
        coarsest = len(self.lateral) - 1
        merged = {coarsest: self.lateral[coarsest](features[coarsest])}
        for index in reversed(range(finest, coarsest)):
            level = self.lateral[index](features[index])
            above = self.upsample[index](merged[index + 1])
            # A size that the stride does not divide gives one cell more on the way up than there was on the way down.
            d, h, w = level.shape[2:]
            level += above[:, :, :d, :h, :w]  # in place: no convolution needs its own output again
            merged[index] = level
        return merged

    def refine(self, merged: Mapping[int, Tensor], outputs: Sequence[int]) -> list[Tensor]:
        """Return output convolutions of some of the merged levels."""
        return [self.output[str(index)](merged[index]) for index in outputs]


def _step(finer: Level, coarser: Level) -> tuple[int, int, int]:
    d, h, w = (b // a for a, b in zip(finer.stride, coarser.stride, strict=True))
    return d, h, w
