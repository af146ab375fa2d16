"""Masked image modelling with mask tokens (SimMIM: Xie et al., 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medpretrain3d.backbones import Backbone, SwinUNETR, TokenBackbone
from medpretrain3d.backbones.tokens import tokens_to_map
from medpretrain3d.errors import UserError
from medpretrain3d.graph_compilation import network_parts
from medpretrain3d.objectives.decoders import VoxelHead
from medpretrain3d.objectives.masked import LossOn, MaskedReconstruction, hidden_tokens, require_whole
from medpretrain3d.objectives.masking import Triple
from medpretrain3d.values import OpenShare, OpenShares, Sizes


class SimMIM(MaskedReconstruction):
    """Replace hidden tokens by a learned one, send all through the encoder, restore voxels with one linear map.

    Args:
        backbone: a transformer over patches (ViT, Primus) or SwinUNETR.
        mask_ratio: share of blocks that are hidden; of a pair (a, b) a share is drawn for each batch of all processes.
        mask_block: block (D, H, W) in voxels; by default the stride of the coarsest level, which is the patch of a ViT.
        loss_on: `hidden` voxels alone, as published, or `all`.
        normalize_targets: restore each patch of a ViT, or mask block, with its own mean and deviation taken out.

    Raises:
        UserError: a backbone without tokens, a ratio that is no share, or blocks that are no whole number of patches.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ViT
        >>> from medpretrain3d.objectives import SimMIM
        >>> objective = SimMIM(ViT("XXS", patch_size=(8, 8, 8), position_grid=(2, 2, 2)), mask_ratio=0.5)
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
    ) -> None:
        if not isinstance(backbone, TokenBackbone | SwinUNETR):
            raise UserError(
                f"SimMIM: got {type(backbone).__name__}, wanted one with tokens to replace (ViT, Primus, "
                "SwinUNETR); use MAE or SparK for a convolutional network"
            )
        super().__init__(backbone, mask_ratio, mask_block or backbone.levels[-1].stride, loss_on, normalize_targets)
        require_whole("SimMIM", self.mask_block, backbone.levels[0].stride, "the patch of the backbone")
        self.mask_token = nn.Parameter(torch.zeros(backbone.levels[0].channels))
        self.head = VoxelHead(backbone.levels[-1], backbone.in_channels)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def compiled_parts(self) -> dict[str, nn.Module]:
        """Return the head and the stages of the backbone, which is called in two halves."""
        stages = {f"backbone.{name}": part for name, part in network_parts(self.backbone).items()}
        return {"head": self.head, **stages}

    def restore(self, image: Tensor, hidden_blocks: Tensor, block: Triple) -> Tensor:
        """Return the whole image (B, C, D, H, W) from its visible tokens."""
        backbone = self.backbone
        backbone.check_input(image)
        hidden_blocks = hidden_blocks.to(image.device, non_blocking=True)
        hidden = hidden_tokens(hidden_blocks, block, backbone.levels[0].stride)  # (B, 1, d, h, w)
        if isinstance(backbone, SwinUNETR):
            tokens = backbone.embed(image)  # (B, C, d, h, w)
            token = self.mask_token.to(tokens.dtype)[:, None, None, None]
            result: Tensor = self.head(backbone.encode(torch.where(hidden, token, tokens))[-1])
            return result
        assert isinstance(backbone, TokenBackbone)
        grid = backbone.grid(tuple(image.shape[2:]))
        tokens = backbone.embed(image)  # (B, N, C)
        tokens = torch.where(hidden.flatten(1)[..., None], self.mask_token.to(tokens.dtype), tokens)
        result = self.head(tokens_to_map(backbone.encode(tokens, grid), grid))
        return result
