"""In how many directions features differ."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def effective_rank(features: Tensor) -> float:
    """Compute the effective rank of features (N, C), from 1 to min(N - 1, C); 0 where all rows are equal.

    The exponential of the entropy of the singular values' shares (Roy and Vetterli, 2007), of features less their mean.
    """
    if not features.isfinite().all():  # of which there are no singular values
        return math.nan
    values = torch.linalg.svdvals((features - features.mean(0)).double())
    total = values.sum()
    if total <= 1e-9 * features.double().norm():
        return 0.0
    share = values / total
    return math.exp(-torch.special.xlogy(share, share).sum().item())
