"""The feature pyramid of a single-scale transformer (ViTDet: Li et al., 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from medpretrain3d.backbones.base import Backbone, Level, Triple
from medpretrain3d.backbones.norm import instance_norm
from medpretrain3d.backbones.tokens import TokenBackbone, tokens_to_map
from medpretrain3d.errors import UserError
from medpretrain3d.values import LayersOrNone, Whole


class TokenPyramid(Backbone):
    """A transformer's one map, carried to finer and coarser levels by parallel branches: what a detector looks at.

    A finer level is reached by transposed convolutions that double the resolution and halve the channels, a coarser one
    by max pooling. The branches are fresh when detection begins: pretraining trains, and an encoder file fills, the
    transformer inside (`encoder`) alone.

    Args:
        backbone: the transformer.
        num_finer: levels finer than the patch; ask for those the detector uses (`first_level: 0`), so that every branch
            is trained. A patch of 8 reaches full resolution with 3.
        num_coarser: levels coarser than the patch.
        blocks: whose features are joined, counted from 0 and the last among them, as FlexiCT joins 3, 7, 11 and 15 for
            dense tasks; by default the last alone, which is also what the learned mixture begins with.

    Raises:
        UserError: more finer levels than the patch can be halved, or blocks that the transformer does not have.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import TokenPyramid, ViT
        >>> backbone = TokenPyramid(ViT(preset="XXS", patch_size=(8, 8, 8)))
        >>> [tuple(features.shape[1:]) for features in backbone(torch.zeros(1, 1, 16, 16, 16))]
        [(12, 8, 8, 8), (24, 4, 4, 4), (48, 2, 2, 2), (48, 1, 1, 1)]
    """

    citation: ClassVar[str] = "Li et al., 2022, arXiv:2203.16527"

    def __init__(
        self,
        backbone: TokenBackbone,
        num_finer: LayersOrNone = 2,
        num_coarser: LayersOrNone = 1,
        blocks: Sequence[Whole] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.blocks = None if blocks is None else sorted({int(index) for index in blocks})
        self.mixture = None if self.blocks is None else _mixture(backbone, self.blocks)
        self.in_channels = backbone.in_channels
        self.finer = nn.ModuleList()
        levels = list(backbone.levels)
        steps: list[Triple] = []
        for _ in range(num_finer):
            step = _halving(levels[0].stride, num_finer)
            steps.append(step)
            d, h, w = (stride // factor for stride, factor in zip(levels[0].stride, step, strict=True))
            levels.insert(0, Level(levels[0].channels // 2, (d, h, w)))
            self.finer.insert(0, _upsampling(backbone.width, steps))
        for _ in range(num_coarser):
            d, h, w = levels[-1].stride
            levels.append(Level(backbone.width, (2 * d, 2 * h, 2 * w)))
        self.num_coarser = num_coarser
        self.levels = tuple(levels)

    @property
    def encoder(self) -> Backbone:
        """The transformer."""
        return self.backbone

    @property
    def name(self) -> str:
        """The transformer's name and what was put on it, as in `ViT-B+pyramid`."""
        return f"{self.backbone.name}+pyramid"

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map an image (B, C, D, H, W) to one map per level, finest first."""
        self.check_input(image)
        x = self._joined(image)
        maps = [branch(x) for branch in self.finer] + [x]
        for _ in range(self.num_coarser):
            maps.append(nn.functional.max_pool3d(maps[-1], 2))
        return maps

    def sharded_blocks(self) -> list[nn.Module]:
        """Return the blocks of the transformer."""
        return self.backbone.sharded_blocks()

    def _joined(self, image: Tensor) -> Tensor:
        """Return the map (B, width, d, h, w) that the branches start from."""
        if self.mixture is None or self.blocks is None:
            alone: Tensor = self.backbone(image)[0]
            return alone
        grid = self.backbone.grid(tuple(image.shape[2:]))
        features = self.backbone.encode_at(self.backbone.embed(image), grid, self.blocks)
        result: Tensor = self.mixture(tokens_to_map(torch.cat(features, dim=-1), grid))
        return result

    def depth_groups(self) -> list[list[nn.Parameter]]:
        """Return those of the transformer, then the branches."""
        branches = [*([] if self.mixture is None else self.mixture.parameters()), *self.finer.parameters()]
        return [*self.backbone.depth_groups(), *([branches] if branches else [])]


def _mixture(backbone: TokenBackbone, blocks: list[int]) -> nn.Conv3d:
    """A linear map of the joined features of several blocks to the width of one: at first that of the last block."""
    depth = backbone.depth
    if not blocks or blocks[-1] != depth - 1:
        raise UserError(
            f"TokenPyramid: got blocks {blocks} of {backbone.name}, which has {depth}; wanted some of 0 .. "
            f"{depth - 1}, {depth - 1} among them, since what comes behind the last one would not be trained"
        )
    mixture = nn.Conv3d(len(blocks) * backbone.width, backbone.width, 1)
    nn.init.zeros_(mixture.weight)
    nn.init.dirac_(mixture.weight[:, -backbone.width :])
    nn.init.zeros_(mixture.bias)  # type: ignore[arg-type]  # a Conv3d has one by default
    return mixture


def _halving(stride: Triple, num_finer: int) -> Triple:
    """Return factor along each axis that leads one level finer: 2 until the axis is at full resolution."""
    if any(edge > 1 and edge % 2 for edge in stride) or stride == (1, 1, 1):
        raise UserError(
            f"TokenPyramid: got num_finer {num_finer}, but a level of stride {stride} has no finer one by halving; "
            "lower num_finer or choose a patch_size of powers of two"
        )
    d, h, w = (2 if edge > 1 else 1 for edge in stride)
    return (d, h, w)


def _upsampling(width: int, steps: list[Triple]) -> nn.Sequential:
    """Transposed convolutions that each halve the channels; norm and GELU stand between them, a norm at the end."""
    layers: list[nn.Module] = []
    for index, step in enumerate(steps):
        if index:
            layers.append(nn.GELU())
        layers += [nn.ConvTranspose3d(width, width // 2, step, step), instance_norm(width // 2)]
        width //= 2
    return nn.Sequential(*layers)
