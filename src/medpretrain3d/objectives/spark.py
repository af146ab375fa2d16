"""Sparse masked modelling of convolutional networks (SparK: Tian et al., 2023; S3D: Wald et al., 2025)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medpretrain3d.backbones import Backbone, InflatedCNN, Level, SwinUNETR, TokenBackbone, TokenPyramid
from medpretrain3d.backbones.convolution import Conv3d
from medpretrain3d.errors import UserError
from medpretrain3d.objectives.decoders import UNetDecoder, levels_from
from medpretrain3d.objectives.masked import LossOn, MaskedReconstruction, require_whole
from medpretrain3d.objectives.masking import Triple
from medpretrain3d.objectives.sparse import VisibleBlocks, visible_features
from medpretrain3d.values import OpenShare, OpenShares, Sizes, Steps


class SparK(MaskedReconstruction):
    """The encoder's convolutions and norms see visible voxels only, at every stage; a dense U-Net decoder restores.

    Each level is normed over its visible voxels, filled up with a learned token at hidden ones and smoothed by a 3x3x3
    convolution, except at full resolution. The encoder is the plain network, so its weights are used as they are.

    Args:
        backbone: a convolutional network.
        mask_ratio: share of blocks that are hidden; of a pair (a, b) a share is drawn for each batch of all processes.
        mask_block: block (D, H, W) in voxels, a multiple of the coarsest stride; by default that stride.
        loss_on: `hidden` voxels alone, as published, or `all`.
        normalize_targets: restore each mask block with its own mean and deviation taken out.
        decoder_stride: as in `MAE`; finer levels are neither filled up nor smoothed.

    Raises:
        UserError: a backbone that has no sparse form, a ratio that is no share, or blocks that are no multiple of the
            coarsest stride, or a `decoder_stride` that no level has.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.objectives import SparK
        >>> objective = SparK(ResEnc("XXS"), mask_ratio=0.5)
        >>> batch = {"image": torch.rand(2, 1, 16, 16, 16), "seed": torch.tensor([0, 1])}
        >>> output = objective(batch)
        >>> output.loss.backward()
        >>> sorted(output.preview)
        ['input', 'masked', 'restored']
    """

    def __init__(
        self,
        backbone: Backbone,
        mask_ratio: OpenShare | OpenShares = (0.6, 0.9),
        mask_block: Sizes | None = None,
        loss_on: LossOn = "hidden",
        normalize_targets: bool = False,
        decoder_stride: Steps | None = None,
    ) -> None:
        _require_convolutions(backbone)
        coarsest = backbone.levels[-1].stride
        super().__init__(backbone, mask_ratio, mask_block or coarsest, loss_on, normalize_targets)
        require_whole("SparK", self.mask_block, coarsest, "the coarsest stride")
        self.densify = nn.ModuleList(_Densify(level) for level in levels_from(backbone.levels, decoder_stride))
        self.decoder = UNetDecoder(backbone.levels, backbone.in_channels, decoder_stride)

    def compiled_parts(self) -> dict[str, nn.Module]:
        """Return the decoder alone.

        The encoder runs in a mode that replaces its convolutions and norms by those of visible blocks, whose number and
        neighbors are other ones in every step: nothing that a graph could be made of once. Compiled all the same, it is
        traced again at each step, and its norm fails.
        """
        return {"decoder": self.decoder}

    def restore(self, image: Tensor, hidden_blocks: Tensor, block: Triple) -> Tensor:
        """Return the whole image (B, C, D, H, W) from its visible blocks."""
        self.backbone.check_input(image)
        features, blocks = visible_features(self.backbone, image, hidden_blocks, block)
        read = features[len(features) - len(self.densify) :]
        dense = [densify(x, blocks) for densify, x in zip(self.densify, read, strict=True)]
        result: Tensor = self.decoder(dense)
        return result


class _Densify(nn.Module):
    """From the visible blocks of one level to a map without holes."""

    def __init__(self, level: Level) -> None:
        super().__init__()
        is_finest = level.stride == (1, 1, 1)
        self.mask_token = nn.Parameter(torch.zeros(level.channels))
        self.smooth = nn.Identity() if is_finest else Conv3d(level.channels, level.channels, 3, padding=1)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, x: Tensor, blocks: VisibleBlocks) -> Tensor:
        """Return blocks (B N, C, d, h, w) to a map (B, C, D, H, W)."""
        normed = blocks.group_norm(x.float(), x.shape[1])  # one channel per group, no scale, no shift
        result: Tensor = self.smooth(blocks.scatter(normed, self.mask_token))
        return result


def _require_convolutions(backbone: Backbone) -> None:
    name = type(backbone).__name__
    if isinstance(backbone, TokenBackbone | TokenPyramid | SwinUNETR):
        raise UserError(f"SparK: got {name}, wanted a convolutional network; use MAE or SimMIM for a transformer")
    if isinstance(backbone, InflatedCNN):
        raise UserError(f"SparK: got {name}, whose layers work slice by slice and have no sparse form; use MAE")
