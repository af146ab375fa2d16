"""Base of all masked reconstructions: hide part of the patch, restore it, compare."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

from medpretrain3d.backbones import Backbone, TokenBackbone
from medpretrain3d.errors import UserError
from medpretrain3d.objectives.base import Batch, Objective, ObjectiveOutput, Paradigm, common_stride, on_host
from medpretrain3d.objectives.masking import Triple, expand_blocks, hidden_share, random_block_mask
from medpretrain3d.processes import mean_over_samples, world_size
from medpretrain3d.values import OpenShare, OpenShares, Sizes

LossOn = Literal["hidden", "all"]


class MaskedReconstruction(Objective):
    """Mean squared error of restored voxels; a subclass says what the network sees and how it restores.

    Args:
        backbone: the encoder to train.
        mask_ratio: share of blocks that are hidden; of a pair (a, b) one is drawn for each batch of all processes.
        mask_block: block (D, H, W) in voxels that is hidden or visible as a whole.
        loss_on: `hidden` voxels alone, as published, or `all`.
        normalize_targets: restore each patch minus its mean, divided by its standard deviation (He et al., 2022). A
            patch is that of the transformer, or the mask block of a convolutional network.

    Raises:
        UserError: a ratio that is no share, or blocks that are no whole number of a transformer's patches.
    """

    paradigm: ClassVar[Paradigm] = "reconstruction"
    views: ClassVar[tuple[str, ...]] = ("OneView", "LabeledView")

    def __init__(
        self,
        backbone: Backbone,
        mask_ratio: OpenShare | OpenShares,
        mask_block: Sizes,
        loss_on: LossOn = "hidden",
        normalize_targets: bool = False,
    ) -> None:
        super().__init__()
        task = type(self).__name__
        low, high = mask_ratio if isinstance(mask_ratio, tuple | list) else (mask_ratio, mask_ratio)
        if not 0 < low <= high < 1:
            raise UserError(f"{task}: got mask_ratio {mask_ratio}, wanted a share between 0 and 1, such as 0.75")
        if min(mask_block) < 1:
            raise UserError(f"{task}: got mask_block {tuple(mask_block)}, wanted edges of at least one voxel")
        if loss_on not in ("hidden", "all"):
            raise UserError(f"{task}: got loss_on '{loss_on}', wanted hidden or all")
        if isinstance(backbone, TokenBackbone):
            require_own_patches(task, backbone)
            require_whole(task, mask_block, backbone.patch_size, "the patch of the transformer")
        self.backbone = backbone
        self.mask_ratio = (low, high)
        self.mask_block: Triple = (mask_block[0], mask_block[1], mask_block[2])
        self.loss_on: LossOn = loss_on
        self.normalize_targets = normalize_targets
        self.patch_stride = common_stride(backbone.levels[-1].stride, self.mask_block)

    def restore(self, image: Tensor, hidden_blocks: Tensor, block: Triple) -> Tensor:
        """Return the whole image (B, C, D, H, W) from what is visible of it.

        `hidden_blocks` (B, d, h, w) bool is on the CPU: how many are visible, and where, shapes what is computed.
        """
        raise NotImplementedError("a MaskedReconstruction subclass implements restore")

    def block(self, shape: Triple) -> Triple:
        """Return the mask block (D, H, W) for a patch of this shape, which is hidden as a whole."""
        return self.mask_block

    def mask_seeds(self, seed: Tensor) -> Tensor:
        """Return the seeds (N,) of the masks, given those of the samples (B,)."""
        return seed

    def draw_mask(self, batch: Batch, shape: Triple, block: Triple) -> Tensor:
        """Return the hidden blocks (N, d, h, w) bool, on the CPU."""
        seed = on_host(batch, "seed")
        # Processes exchange the seed that decides where they exchange gradients: on their devices.
        share = hidden_share(batch["seed"] if world_size() > 1 else seed, *self.mask_ratio)
        return random_block_mask(self.mask_seeds(seed), shape, block, share, self.mask_ratio)

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Return `image` (B, C, D, H, W) and `seed` (B,) to the loss and the pictures input, masked, restored."""
        image = batch["image"]
        d, h, w = image.shape[2:]
        block = self.block((d, h, w))
        hidden_blocks = self.draw_mask(batch, (d, h, w), block)
        restored = self.restore(image, hidden_blocks, block).float()
        hidden = expand_blocks(hidden_blocks.to(image.device, non_blocking=True), block)  # (B, 1, D, H, W)
        mean, scale = self._target_frame(image, block)
        where = hidden if self.loss_on == "hidden" else torch.ones_like(hidden)
        loss = masked_mse(restored, (image - mean) / scale, where)
        drawn = restored.detach()[0, 0] * scale[0, 0] + mean[0, 0]
        preview = {
            "input": image[0, 0],
            "masked": image[0, 0].masked_fill(hidden[0, 0], 0.0),
            # What was visible is shown as it was: only the hidden blocks are the network's work.
            "restored": drawn.where(hidden[0, 0], image[0, 0]),
        }
        return ObjectiveOutput(loss, {"hidden_share": hidden.float().mean()}, preview)

    def _target_frame(self, image: Tensor, block: Triple) -> tuple[Tensor, Tensor]:
        """Return mean and scale that stand between intensities and targets."""
        if not self.normalize_targets:
            return image.new_zeros(()).expand_as(image), image.new_ones(()).expand_as(image)
        return block_statistics(image, self.backbone.patch_size if isinstance(self.backbone, TokenBackbone) else block)


def masked_mse(restored: Tensor, image: Tensor, hidden: Tensor) -> Tensor:
    """Return mean squared error over hidden voxels only.

    `restored` and `image` are (B, C, D, H, W), `hidden` is (B, 1, D, H, W) bool.
    """
    # fp32: squares of small errors are lost in half precision.
    error = (restored.float() - image.float()).square()
    hidden = hidden.expand_as(error)
    return mean_over_samples((error * hidden).sum(), hidden.sum())


def block_statistics(image: Tensor, block: Triple) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each block, both (B, C, D, H, W); a constant block has a deviation of 0.001."""
    shape = dict(zip(("pd", "ph", "pw"), block, strict=True))
    blocks = rearrange(image.float(), "b c (d pd) (h ph) (w pw) -> b c d h w (pd ph pw)", **shape)
    mean = reduce(blocks, "b c d h w v -> b c d h w", "mean")
    scale = (blocks.var(dim=-1, correction=0) + 1e-6).sqrt()
    to_voxels = "b c d h w -> b c (d pd) (h ph) (w pw)"
    return repeat(mean, to_voxels, **shape), repeat(scale, to_voxels, **shape)


def hidden_tokens(hidden_blocks: Tensor, block: Triple, stride: Triple) -> Tensor:
    """Mask over blocks (B, d, h, w) to the mask over a grid of this stride, (B, 1, D / s_d, H / s_h, W / s_w)."""
    d, h, w = (edge // step for edge, step in zip(block, stride, strict=True))
    return expand_blocks(hidden_blocks, (d, h, w))


def visible_index(hidden: Tensor, device: torch.device | None = None) -> Tensor:
    """Return the indices (B, N_keep) int64 of visible tokens; a mask (B, 1, d, h, w) hides as many in every sample.

    They are found on the CPU, which has to know how many there are, and sent to the device.
    """
    _, index = (~hidden.flatten(1).cpu().numpy()).nonzero()
    return torch.from_numpy(index).reshape(len(hidden), -1).to(device, non_blocking=True)


def require_own_patches(task: str, backbone: TokenBackbone) -> None:
    """Refuse an embedding that mixes patches, as that of PrimusV2.

    Raises:
        UserError: says what to leave out.
    """
    if not backbone.embeds_patches_alone:
        raise UserError(
            f"{task}: got {type(backbone).__name__} with an embedding whose tokens see beyond their patches, "
            "so that what is hidden would be seen; leave its `embedding` out"
        )


def require_whole(task: str, block: Triple, stride: Triple, whose: str) -> None:
    """Refuse blocks that are no whole number of strides.

    Raises:
        UserError: with the block and the stride.
    """
    if any(edge % step for edge, step in zip(block, stride, strict=True)):
        raise UserError(
            f"{task}: got mask_block {tuple(block)}, wanted a multiple of {tuple(stride)}, {whose}, along every axis"
        )
