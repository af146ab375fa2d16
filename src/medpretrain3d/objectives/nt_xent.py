"""The contrastive loss that several methods share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medpretrain3d.errors import UserError
from medpretrain3d.precision.mixed import in_fp32
from medpretrain3d.processes import gather_rows, rank


def nt_xent(first: Tensor, second: Tensor, temperature: float = 0.5) -> Tensor:
    """Normalised, temperature-scaled cross entropy (Chen et al., 2020, eq. 1).

    Each row finds its other view among the rows of both views of all processes, its own left out. The value is the mean
    over the rows of this process.

    Args:
        first: (B, C) of one view; need not be normalised.
        second: (B, C) of the other.
        temperature: divides the cosines.

    Raises:
        UserError: one pair in all, which leaves nothing to tell it from.
    """
    with in_fp32(first.device):  # exp of a cosine over a small temperature, in fp32
        own = F.normalize(torch.cat([first, second]).float(), dim=1)  # (2 B, C)
        everyone = gather_rows(own)  # (W 2 B, C)
        if len(everyone) < 4:
            raise UserError(
                "contrastive loss: got a batch of 1 over all processes, wanted at least 2 samples to tell apart; "
                "raise data.batch_size"
            )
        index = torch.arange(len(own), device=own.device)
        offset = rank() * len(own)
        cosine = own @ everyone.T / temperature
        cosine = cosine.scatter(1, (index + offset)[:, None], float("-inf"))
        return F.cross_entropy(cosine, (index + len(first)) % len(own) + offset)
