"""Spreading vectors over the sphere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medpretrain3d.errors import UserError
from medpretrain3d.precision.mixed import in_fp32
from medpretrain3d.processes import gather_rows, rank


def koleo(vectors: Tensor) -> Tensor:
    """Return minus the mean logarithm of the distance of each vector to its nearest neighbor.

    The KoLeo regularizer (Sablayrolles et al., 2019), after the entropy estimator of Kozachenko and Leonenko, on
    vectors (B, C) scaled to length 1. Neighbors are looked for among the vectors of all processes; the value is the
    mean over those of this one.

    Raises:
        UserError: one vector in all, which has no neighbor.
    """
    with in_fp32(vectors.device):
        own = F.normalize(vectors.float(), dim=1)
        everyone = gather_rows(own)  # (W B, C)
        if len(everyone) < 2:
            raise UserError(
                "KoLeo: got a batch of 1 over all processes, wanted at least 2 samples to spread; raise "
                "data.batch_size, or set its weight to 0"
            )
        itself = torch.arange(len(own), device=own.device) + rank() * len(own)
        cosine = own.detach() @ everyone.detach().T
        nearest = cosine.scatter(1, itself[:, None], -2.0).argmax(dim=1)
        # The root of a sum of squares has no slope at 0, where two vectors are the same.
        squared = (own - everyone[nearest]).square().sum(dim=1)
        return -0.5 * (squared + EPSILON**2).log().mean()


EPSILON = 1e-8
"""Distance below which vectors are taken for equal."""
