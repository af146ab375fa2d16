"""Contrast of two views."""

from __future__ import annotations

from typing import Annotated

from annotated_types import MinLen
from einops import rearrange

from medpretrain3d.backbones import Backbone
from medpretrain3d.objectives.alignment import view_pictures
from medpretrain3d.objectives.base import Batch, Objective, ObjectiveOutput, seeds_of_views
from medpretrain3d.objectives.nt_xent import nt_xent
from medpretrain3d.objectives.projector import Projector, pool, refuse_branches
from medpretrain3d.randomness import sample_seeds
from medpretrain3d.values import Channels, Positive


class SimCLR(Objective):
    """Know two overlapping crops of a volume among those of all others (Chen et al., 2020).

    The coarsest level, or all tokens, are averaged over space and projected; the loss is NT-Xent over the views of all
    processes. Wants `data.views` TwoViews and an intensity augmentation, without which the views are told by their grey
    levels.

    Args:
        backbone: the encoder to train.
        temperature: of NT-Xent.
        projector_channels: outputs of the projector's linear maps.

    Raises:
        UserError: a backbone with branches for detection; in `forward`, one sample over all processes.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.objectives import SimCLR
        >>> objective = SimCLR(ResEnc("XXS"), projector_channels=(32, 16))
        >>> batch = {"image": torch.rand(2, 2, 1, 16, 16, 16), "seed": torch.tensor([0, 1])}
        >>> output = objective(batch)
        >>> output.loss.backward()
        >>> output.loss.shape, sorted(output.logs)
        (torch.Size([]), [])
    """

    paradigm = "contrastive"
    views = ("TwoViews",)

    def __init__(
        self,
        backbone: Backbone,
        temperature: Positive = 0.5,
        projector_channels: Annotated[tuple[Channels, ...], MinLen(1)] = (2048, 128),
    ) -> None:
        super().__init__()
        refuse_branches("SimCLR", backbone)
        self.backbone = backbone
        self.temperature = temperature
        self.patch_stride = backbone.levels[-1].stride
        self.projector = Projector(backbone.levels[-1].channels, projector_channels)

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """`image` (B, 2, C, D, H, W), `affine` (B, 2, 3, 4) to the loss; in validation, pictures of both views."""
        views = rearrange(batch["image"], "b v c d h w -> (v b) c d h w")
        with sample_seeds(seeds_of_views(batch["seed"], 2)):
            first, second = self.projector(pool(self.backbone(views)[-1])).chunk(2)
        return ObjectiveOutput(
            nt_xent(first, second, self.temperature), preview={} if self.training else view_pictures(batch)
        )
