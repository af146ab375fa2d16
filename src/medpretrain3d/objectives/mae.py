"""Masked autoencoding for convolutional networks."""

from __future__ import annotations

from torch import Tensor

from medpretrain3d.backbones import Backbone
from medpretrain3d.errors import UserError
from medpretrain3d.objectives.base import Batch, Objective, ObjectiveOutput, common_stride
from medpretrain3d.objectives.decoders import UNetDecoder
from medpretrain3d.objectives.masking import expand_blocks, random_block_mask


class MAE(Objective):
    """Hide blocks of the patch by setting them to zero and restore them with a U-Net; the loss looks at them alone.

    The CNN form of masked autoencoding (He et al., 2022; as in Wald et al., 2025: 75 % of 16^3 blocks, skips kept,
    mean squared error on hidden voxels). Images are in [-1, 1], so zero is the middle of the window.

    Args:
        backbone: the encoder to train; its finest level is at full resolution.
        mask_ratio: share of blocks that are hidden.
        mask_block: block (D, H, W) in voxels.

    Raises:
        UserError: `mask_ratio` outside (0, 1), or a backbone without a level at full resolution.
    """

    paradigm = "reconstruction"

    def __init__(
        self, backbone: Backbone, mask_ratio: float = 0.75, mask_block: tuple[int, int, int] = (16, 16, 16)
    ) -> None:
        super().__init__()
        if not 0 < mask_ratio < 1:
            raise UserError(f"MAE: got mask_ratio {mask_ratio}, wanted a share between 0 and 1, such as 0.75")
        if backbone.levels[0].stride != (1, 1, 1):
            raise UserError(
                f"MAE: the finest level of {type(backbone).__name__} has stride {backbone.levels[0].stride}, wanted "
                "(1, 1, 1): the U-Net decoder needs a level at full resolution"
            )
        self.backbone = backbone
        self.mask_ratio = mask_ratio
        self.mask_block = mask_block
        self.patch_stride = common_stride(backbone.levels[-1].stride, self.mask_block)
        self.decoder = UNetDecoder(backbone.levels, backbone.in_channels)

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """`image` (B, C, D, H, W) and `seed` (B,) to the loss and the pictures input, masked, restored."""
        image = batch["image"]
        d, h, w = image.shape[2:]
        hidden_blocks = random_block_mask(batch["seed"], (d, h, w), self.mask_block, self.mask_ratio)
        hidden = expand_blocks(hidden_blocks, self.mask_block)  # (B, 1, D, H, W)
        masked = image.masked_fill(hidden, 0.0)
        restored = self.decoder(self.backbone(masked))
        loss = masked_mse(restored, image, hidden)
        preview = {
            "input": image[0, 0],
            "masked": masked[0, 0],
            # What was visible is shown as it was: only the hidden blocks are the network's work.
            "restored": restored[0, 0].float().where(hidden[0, 0], image[0, 0]),
        }
        return ObjectiveOutput(loss, preview={name: volume.detach() for name, volume in preview.items()})


def masked_mse(restored: Tensor, image: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error over hidden voxels only.

    `restored` and `image` are (B, C, D, H, W), `hidden` is (B, 1, D, H, W) bool.
    """
    # fp32: squares of small errors are lost in half precision.
    error = (restored.float() - image.float()).square()
    hidden = hidden.expand_as(error)
    return (error * hidden).sum() / hidden.sum()
