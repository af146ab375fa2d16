"""Masked autoencoding."""

from __future__ import annotations

from torch import Tensor, nn

from medpretrain3d.backbones import Backbone, TokenBackbone
from medpretrain3d.errors import UserError
from medpretrain3d.graph_compilation import network_parts
from medpretrain3d.objectives.decoders import TokenDecoder, UNetDecoder
from medpretrain3d.objectives.masked import LossOn, MaskedReconstruction, hidden_tokens, visible_index
from medpretrain3d.objectives.masking import Triple, expand_blocks
from medpretrain3d.values import LayersOrNone, OpenShare, OpenShares, Sizes, Steps

DECODER_DEPTH = 2
"""The default: what a recipe for a convolutional network says where it says nothing."""


class MAE(MaskedReconstruction):
    """Restore hidden blocks from the visible ones (He et al., 2022).

    A convolutional network sees zeros in their place and restores through a U-Net with skips (Wald et al., 2025: 75 %
    of 16^3 blocks; images are in [-1, 1], so zero is the middle of the window). A transformer sees the visible tokens
    alone; two transformer blocks on all places restore the rest.

    Args:
        backbone: the encoder to train.
        mask_ratio: share of blocks that are hidden; of a pair (a, b) a share is drawn for each batch of all processes.
        mask_block: block (D, H, W) in voxels; by default 16^3, for a transformer its patch.
        loss_on: `hidden` voxels alone, as published, or `all`.
        normalize_targets: restore each patch with its own mean and deviation taken out.
        decoder_depth: transformer blocks of a transformer's decoder.
        decoder_stride: of a convolutional network's level at which the U-Net stops, as (2, 2, 2); each of its cells is
            mapped to the voxels that it stands for. By default it goes on to full resolution, where most of the time
            of a step goes.

    Raises:
        UserError: a ratio that is no share, blocks that are no whole number of a transformer's patches, a stride that
            no level has, or a depth for the decoder of a convolutional network.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.objectives import MAE
        >>> objective = MAE(ResEnc("XXS"), mask_ratio=0.75, mask_block=(4, 4, 4))
        >>> batch = {"image": torch.rand(2, 1, 16, 16, 16), "seed": torch.tensor([0, 1])}
        >>> output = objective(batch)
        >>> output.loss.backward()
        >>> sorted(output.preview)
        ['input', 'masked', 'restored']
    """

    def __init__(
        self,
        backbone: Backbone,
        mask_ratio: OpenShare | OpenShares = 0.75,
        mask_block: Sizes | None = None,
        loss_on: LossOn = "hidden",
        normalize_targets: bool = False,
        decoder_depth: LayersOrNone = 2,
        decoder_stride: Steps | None = None,
    ) -> None:
        is_tokens = isinstance(backbone, TokenBackbone)
        if is_tokens and decoder_stride is not None:
            raise UserError(
                f"{type(self).__name__}: got decoder_stride {tuple(decoder_stride)} with {type(backbone).__name__}, "
                "whose decoder predicts from its patches as it is; leave it out"
            )
        if not is_tokens and decoder_depth != DECODER_DEPTH:
            raise UserError(
                f"{type(self).__name__}: got decoder_depth {decoder_depth} with {type(backbone).__name__}, whose "
                "decoder is a U-Net without transformer blocks; leave it out"
            )
        block = mask_block or (backbone.levels[0].stride if is_tokens else (16, 16, 16))
        super().__init__(backbone, mask_ratio, block, loss_on, normalize_targets)
        self.decoder: TokenDecoder | UNetDecoder = (
            TokenDecoder(backbone.levels[0], backbone.in_channels, decoder_depth)
            if is_tokens
            else UNetDecoder(backbone.levels, backbone.in_channels, decoder_stride)
        )

    def compiled_parts(self) -> dict[str, nn.Module]:
        """Return the parts; of a transformer its blocks, which see visible tokens and are called one by one."""
        parts = super().compiled_parts()
        if isinstance(self.backbone, TokenBackbone):
            del parts["backbone"]
            parts |= {f"backbone.{name}": part for name, part in network_parts(self.backbone).items()}
        return parts

    def restore(self, image: Tensor, hidden_blocks: Tensor, block: Triple) -> Tensor:
        """Return the whole image (B, C, D, H, W) from its visible blocks."""
        if not isinstance(self.backbone, TokenBackbone):
            hidden = expand_blocks(hidden_blocks.to(image.device, non_blocking=True), block)
            result: Tensor = self.decoder(self.backbone(image.masked_fill(hidden, 0.0)))
            return result
        self.backbone.check_input(image)
        grid = self.backbone.grid(tuple(image.shape[2:]))
        keep_index = visible_index(hidden_tokens(hidden_blocks, block, self.backbone.patch_size), image.device)
        visible = self.backbone.encode(self.backbone.embed(image), grid, keep_index)
        result = self.decoder(visible, grid, keep_index)
        return result
