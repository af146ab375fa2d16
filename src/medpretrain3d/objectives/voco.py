"""Volume contrast: where in the volume is this crop?"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from einops import rearrange
from torch import Tensor

from medpretrain3d.backbones import Backbone
from medpretrain3d.errors import UserError
from medpretrain3d.objectives.base import Batch, Objective, ObjectiveOutput
from medpretrain3d.objectives.projector import Projector, pool_levels, refuse_branches
from medpretrain3d.precision.mixed import in_fp32
from medpretrain3d.randomness import counter_random, derived_seeds, random_at, sample_seeds
from medpretrain3d.values import Channels


class VoCo(Objective):
    """Predict which share of a random crop lies in each of the base crops that tile the region (Wu et al., 2024).

    The prediction is the cosine of the projections, cut off at 0; base crops are constants in it and are pushed apart
    by a term of their own. A crop is compared with the base crops of its own volume alone, so nothing is gathered over
    processes. Wants `data.views` GridAndTargets, whose patch is one crop (published: 64^3 in a grid of 1 x 4 x 4).

    Args:
        backbone: the encoder to train; the means over space of all its levels are projected.
        projector_channels: outputs of the projector's linear maps.

    Raises:
        UserError: a backbone with branches for detection; in `forward`, a grid of one crop.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.objectives import VoCo
        >>> objective = VoCo(ResEnc("XXS"), projector_channels=(32, 32))
        >>> batch = {
        ...     "base": torch.rand(2, 4, 1, 16, 16, 16),  # a grid of 1 x 2 x 2 crops of each volume
        ...     "target": torch.rand(2, 1, 16, 16, 16),
        ...     "target_of": torch.tensor([0, 1]),
        ...     "share": torch.tensor([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]]),
        ...     "grid": torch.tensor([[1, 2, 2], [1, 2, 2]]),
        ...     "seed": torch.tensor([0, 1]),
        ... }
        >>> output = objective(batch)
        >>> output.loss.backward()
        >>> output.loss.shape, sorted(output.logs)
        (torch.Size([]), ['attract', 'repel', 'spread'])
    """

    paradigm = "contrastive"
    views = ("GridAndTargets",)

    def __init__(
        self, backbone: Backbone, projector_channels: Annotated[tuple[Channels, ...], MinLen(1)] = (2048, 2048, 2048)
    ) -> None:
        super().__init__()
        refuse_branches("VoCo", backbone)
        self.backbone = backbone
        self.patch_stride = backbone.levels[-1].stride
        channels = sum(level.channels for level in backbone.levels)
        self.projector = Projector(channels, projector_channels, with_norm=True)

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Return `base` (B, G, C, D, H, W), `target` (T, C, D, H, W), `target_of` (T,), `share` (T, G) to the loss."""
        base, target, share, target_of = batch["base"], batch["target"], batch["share"], batch["target_of"]
        if base.shape[1] < 2:
            raise UserError("VoCo: got a grid of one base crop, wanted at least two to tell apart; raise views.grid")
        crops = torch.cat([rearrange(base, "b g c d h w -> (b g) c d h w"), target])
        with sample_seeds(crop_seeds(batch["seed"], base.shape[1], target_of)):
            vectors = self.projector(pool_levels(self.backbone(crops)))
        with in_fp32(vectors.device):
            vectors = F.normalize(vectors.float(), dim=1)
            bases = rearrange(vectors[: -len(target)], "(b g) c -> b g c", b=len(base))
            # (T, G): the overlap that each target is predicted to have with the base crops of its volume.
            predicted = torch.einsum("tc,tgc->tg", vectors[-len(target) :], bases.detach()[target_of]).relu()
            attract, repel = overlap_losses(predicted, share, target_of, len(base))
            spread = base_similarity(bases)
        return ObjectiveOutput(
            attract + repel + spread,
            {"attract": attract.detach(), "repel": repel.detach(), "spread": spread.detach()},
            {} if self.training else _pictures(batch, predicted.detach()),
        )


def crop_seeds(seed: Tensor, num_bases: int, target_of: Tensor) -> Tensor:
    """Return a seed for each crop: the base crops of all samples (B,), sample by sample, then the targets (T,)."""
    views = derived_seeds(seed, "views")
    is_earlier = (target_of[:, None] == target_of).tril(-1)
    place = num_bases + is_earlier.sum(dim=1)  # (T,) among the crops of its sample
    return torch.cat([counter_random(views, num_bases).flatten(), random_at(views[target_of], place)])


def overlap_losses(predicted: Tensor, share: Tensor, target_of: Tensor, num_samples: int) -> tuple[Tensor, Tensor]:
    """Return the two terms of the predicted overlap (Wu et al., 2024, eq. 4 and 5), each the mean over volumes.

    Where base and target overlap by `o`: sum of `-log(1 - |o - p|) o` over sum of `o`. Where they do not: mean `p^2`.

    Args:
        predicted: `p` (T, G) in [0, 1].
        share: `o` (T, G), rows sum to 1.
        target_of: (T,) volume of each target.
        num_samples: number of volumes.
    """

    def per_volume(row: Tensor) -> Tensor:
        return row.new_zeros(num_samples).index_add(0, target_of, row)

    # A crop that is a base crop (o = 1) and is taken for none (p = 0) would cost infinitely much.
    distance = (share - predicted).abs().clamp(max=1 - 1e-6)
    attract = per_volume((-torch.log1p(-distance) * share).sum(dim=1)) / per_volume(share.sum(dim=1))
    apart = (share == 0).to(predicted.dtype)
    repel = per_volume((predicted.square() * apart).sum(dim=1)) / per_volume(apart.sum(dim=1)).clamp(min=1)
    return attract.mean(), repel.mean()


def base_similarity(bases: Tensor) -> Tensor:
    """Return mean cosine, cut off at 0, between different base crops of a volume: `bases` (B, G, C) of length 1."""
    num_bases = bases.shape[1]
    cosine = (bases @ bases.mT).relu().flatten(1)
    # Without its first number, the diagonal is the end of each row of G + 1: a mask would have to be counted.
    others = cosine[:, 1:].unflatten(1, (num_bases - 1, num_bases + 1))[:, :, :-1]
    result: Tensor = others.flatten().mean()
    return result


@torch.no_grad()
def _pictures(batch: Batch, predicted: Tensor) -> dict[str, Tensor]:
    """Return the first volume's region, and the true and predicted overlap of its first target as grey levels."""
    d, h, w = batch["grid"][0].tolist()
    base = batch["base"][0, :, 0].float()  # (G, D, H, W)
    flat = [base] + [
        (2 * share[0] - 1)[:, None, None, None].expand_as(base).float() for share in (batch["share"], predicted)
    ]
    region, true, guess = (rearrange(one, "(gd gh gw) d h w -> (gd d) (gh h) (gw w)", gd=d, gh=h, gw=w) for one in flat)
    return {"base crops": region, "true overlap": true, "predicted overlap": guess}
