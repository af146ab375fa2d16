"""Dropout that a sample meets alike in every batch, and the attention that uses it."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from medpretrain3d.randomness import draw_bits

_RANGE = 2**16


class Dropout(nn.Module):
    """Set values of (B, ...) to 0 in training; the others grow, so that the mean stays (Srivastava et al., 2014).

    Which ones is a function of the samples' seeds, see `medpretrain3d.randomness`.

    Args:
        probability: of each value, in [0, 1).
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        if not self.training or not self.probability:
            return x
        count, dropped = x[0].numel(), min(round(self.probability * _RANGE), _RANGE - 1)  # some are kept below 1
        # One number of 64 bits decides on four values: hashing is what costs.
        bits = draw_bits(len(x), -(-count // 4), x.device).view(torch.int16)[:, :count]
        is_kept = (bits >= dropped - _RANGE // 2).view(x.shape)
        return x * is_kept.to(x.dtype) * (_RANGE / (_RANGE - dropped))


class SelfAttention(nn.MultiheadAttention):
    """PyTorch's attention among rows, with `Dropout` on its weights.

    Args:
        channels: of a row.
        num_heads: groups of channels.
        dropout: probability with which a weight is left out in training.
    """

    def __init__(self, channels: int, num_heads: int, dropout: float) -> None:
        super().__init__(channels, num_heads, batch_first=True)
        self.weights_dropout = Dropout(dropout)

    # Query and key are one here and no weights are returned: it takes less than the class that it derives from.
    def forward(self, placed: Tensor, content: Tensor, apart: Tensor | None) -> Tensor:  # type: ignore[override]
        """Compute the attention output of each row: (B, Q, C).

        Args:
            placed: (B, Q, C), by which rows find each other.
            content: (B, Q, C), what is read.
            apart: (Q, Q) bool, True where a row must not see another; None lets all see all.
        """
        if not self.training or not self.weights_dropout.probability:
            read: Tensor = super().forward(placed, placed, content, attn_mask=apart, need_weights=False)[0]
            return read
        of_query, of_key, of_value = (self._heads(rows, part) for part, rows in enumerate((placed, placed, content)))
        score = of_query @ of_key.mT / self.head_dim**0.5  # (B, heads, Q, Q)
        if apart is not None:
            score = score.masked_fill(apart, -torch.inf)
        weight = self.weights_dropout(score.softmax(dim=-1)).to(of_value.dtype)
        result: Tensor = self.out_proj(rearrange(weight @ of_value, "b n q c -> b q (n c)"))
        return result

    def _heads(self, rows: Tensor, part: int) -> Tensor:
        own = slice(part * self.embed_dim, (part + 1) * self.embed_dim)
        assert self.in_proj_weight is not None
        assert self.in_proj_bias is not None
        mapped = F.linear(rows, self.in_proj_weight[own], self.in_proj_bias[own])
        return rearrange(mapped, "b q (n c) -> b n q c", n=self.num_heads)
