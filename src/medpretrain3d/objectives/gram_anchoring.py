"""Keeping how alike the tokens of a view are to each other as an earlier teacher saw it (DINOv3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medpretrain3d.backbones import TokenBackbone
from medpretrain3d.backbones.tokens import tokens_to_map
from medpretrain3d.configurable import Configurable
from medpretrain3d.precision.mixed import in_fp32
from medpretrain3d.values import Count, Positive, Share, Step


@dataclass(frozen=True)
class GramAnchoring(Configurable):
    """Late in a run, similarities of patch tokens stay those of a teacher kept from before (Simeoni et al., 2025).

    Long self-distillation makes class tokens better and dense features worse. The kept teacher sees views at a higher
    resolution, so that its patches are smaller; here the very view is interpolated, where the paper reads a larger one.

    Args:
        weight: of the loss.
        start: share of the run after which it begins; until then it costs nothing.
        refresh_steps: steps after which the teacher of the run is kept anew.
        scale: of the resolution at which the kept teacher sees the view.

    Example:
        >>> from medpretrain3d.objectives import GramAnchoring
        >>> anchoring = GramAnchoring(start=0.5, refresh_steps=100)
        >>> [anchoring.is_on(step, 1000) for step in (0, 499, 500)], anchoring.is_due(600, 1000)
        ([False, False, True], True)
    """

    weight: Positive = 2.0
    start: Share = 0.5
    refresh_steps: Count = 10_000
    scale: Step = 2

    def is_on(self, step: int, num_steps: int) -> bool:
        """Return whether the loss counts at a step of a run of some steps."""
        return step >= self.first_step(num_steps)

    def first_step(self, num_steps: int) -> int:
        """Return the step from which it counts."""
        return math.ceil(self.start * num_steps)

    def is_due(self, step: int, num_steps: int) -> bool:
        """Return whether the teacher is to be kept before this step."""
        behind = step - self.first_step(num_steps)
        return behind >= 0 and behind % self.refresh_steps == 0

    @torch.no_grad()
    def target(self, kept: TokenBackbone, views: Tensor) -> Tensor:
        """Return the tokens (B, N, width) of views (B, C, D, H, W), as many as the student has."""
        fine = F.interpolate(views, scale_factor=self.scale, mode="trilinear", align_corners=False)
        fine_grid = kept.grid(tuple(fine.shape[2:]))
        tokens = tokens_to_map(kept.encode(kept.embed(fine), fine_grid), fine_grid)
        return F.avg_pool3d(tokens.float(), self.scale).flatten(2).mT


def gram_distance(student: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference of the cosines of all pairs of tokens; both are (B, N, C)."""
    with in_fp32(student.device):
        own, wanted = (F.normalize(tokens.float(), dim=2) for tokens in (student, target))
        return (own @ own.mT - wanted @ wanted.mT).square().mean()
