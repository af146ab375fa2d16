"""The layers of a deformable transformer: position encoding, encoder, decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medpretrain3d.detection.box_grid import Shape
from medpretrain3d.detection.deformable_attention import DeformableAttention
from medpretrain3d.detection.dropout import Dropout, SelfAttention


def sine_encoding(values: Tensor, size: int, temperature: float = 10_000.0) -> Tensor:
    """Sines and cosines of values in [0, 1] (..., k): (..., k * size) float32 (Vaswani et al., 2017, sec. 3.5)."""
    frequency = temperature ** -(torch.arange(size // 2, device=values.device) / (size // 2))
    angle = values.float()[..., None] * 2 * math.pi * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(-2)


def cell_centers(shapes: Sequence[Shape], device: torch.device | str) -> Tensor:
    """Return centres of the cells of all levels, finest level first, in [0, 1] of the image: (S, 3) as (d, h, w)."""
    levels = []
    for shape in shapes:
        axes = [(torch.arange(size, device=device) + 0.5) / size for size in shape]
        levels.append(torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3))
    return torch.cat(levels)


class EncoderLayer(nn.Module):
    """Deformable self-attention over the cells of all levels; norms before each part (Xiong et al., 2020)."""

    def __init__(
        self, channels: int, hidden: int, num_levels: int, num_heads: int, num_points: int, dropout: float
    ) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(channels)
        self.attention = DeformableAttention(channels, num_levels, num_heads, num_points)
        self.norm_hidden = nn.LayerNorm(channels)
        self.hidden = _hidden(channels, hidden, dropout)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Tensor, position: Tensor, references: Tensor, shapes: Sequence[Shape]) -> Tensor:
        """Return tokens (B, S, C) -> (B, S, C); `references` (B, S, 3) are their cells' centres."""
        normed = self.norm_attention(tokens)
        tokens = tokens + self.dropout(self.attention(normed + position, references, normed, shapes))
        result: Tensor = tokens + self.dropout(self.hidden(self.norm_hidden(tokens)))
        return result


class DecoderLayer(nn.Module):
    """Self-attention among queries, deformable attention to the memory; norms after each part (Zhu et al., 2021)."""

    def __init__(
        self, channels: int, hidden: int, num_levels: int, num_heads: int, num_points: int, dropout: float
    ) -> None:
        super().__init__()
        self.among = SelfAttention(channels, num_heads, dropout)
        self.norm_among = nn.LayerNorm(channels)
        self.attention = DeformableAttention(channels, num_levels, num_heads, num_points)
        self.norm_attention = nn.LayerNorm(channels)
        self.hidden = _hidden(channels, hidden, dropout)
        self.norm_hidden = nn.LayerNorm(channels)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        content: Tensor,
        position: Tensor,
        references: Tensor,
        memory: Tensor,
        shapes: Sequence[Shape],
        apart: Tensor | None,
    ) -> Tensor:
        """Content of the queries (B, Q, C) -> (B, Q, C).

        Args:
            content: what the queries know.
            position: (B, Q, C), encoding where they look.
            references: (B, Q, 6) boxes (centre, extent) in [0, 1].
            memory: (B, S, C) of the encoder.
            shapes: of the levels in `memory`.
            apart: (Q, Q) bool, True where a query must not see another; None lets all see all.
        """
        placed = content + position
        content = self.norm_among(content + self.dropout(self.among(placed, content, apart)))
        read = self.attention(content + position, references, memory, shapes)
        content = self.norm_attention(content + self.dropout(read))
        result: Tensor = self.norm_hidden(content + self.dropout(self.hidden(content)))
        return result


def mlp(channels: int, outputs: int) -> nn.Sequential:
    """Return three layers whose last starts at zero: boxes start at their references."""
    last = nn.Linear(channels, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels), nn.ReLU(inplace=True), last
    )


def _hidden(channels: int, hidden: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels, hidden), nn.ReLU(inplace=True), Dropout(dropout), nn.Linear(hidden, channels)
    )
