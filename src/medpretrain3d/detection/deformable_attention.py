"""Multi-scale deformable attention in 3D, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from medpretrain3d.detection.box_grid import Shape


def sample_levels(levels: Sequence[Tensor], locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of trilinear samples: what each query and head reads from a pyramid (Zhu et al., 2021, eq. 3).

    Args:
        levels: per level, values (B, heads, C, D, H, W).
        locations: (B, Q, heads, L, P, 3) as (d, h, w) in [0, 1] of the image; what lies outside reads 0.
        weights: (B, Q, heads, L, P).

    Returns:
        (B, Q, heads * C) float32.
    """
    # grid_sample wants (x, y, z), that is (w, h, d), in [-1, 1].
    grid = rearrange(locations.flip(-1).float() * 2 - 1, "b q n l p xyz -> l (b n) q p 1 xyz")
    share = rearrange(weights.float(), "b q n l p -> l (b n) 1 q p")
    total = None
    for level, values in enumerate(levels):
        sampled = F.grid_sample(values.flatten(0, 1).float(), grid[level], align_corners=False)[..., 0]  # (bn, C, Q, P)
        read = (sampled * share[level]).sum(dim=3)
        total = read if total is None else total + read
    assert total is not None
    return rearrange(total, "(b n) c q -> b q (n c)", n=locations.shape[2])


class DeformableAttention(nn.Module):
    """Each query reads a few points around its reference on every level (Zhu et al., 2021).

    Args:
        channels: of queries and memory.
        num_levels: of the pyramid.
        num_heads: groups of channels, each with points of its own.
        num_points: points per head and level.
    """

    def __init__(self, channels: int, num_levels: int, num_heads: int, num_points: int) -> None:
        super().__init__()
        self.num_levels, self.num_heads, self.num_points = num_levels, num_heads, num_points
        self.value = nn.Linear(channels, channels)
        self.offsets = nn.Linear(channels, num_heads * num_levels * num_points * 3)
        self.weights = nn.Linear(channels, num_heads * num_levels * num_points)
        self.output = nn.Linear(channels, channels)
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.weights.bias)
        # Every head starts in a direction of its own, its points one after the other along it.
        steps = torch.arange(1, num_points + 1, dtype=torch.float32)
        start = _directions(num_heads)[:, None, None, :] * steps[None, None, :, None]  # (heads, 1, P, 3)
        with torch.no_grad():
            self.offsets.bias.copy_(start.expand(-1, num_levels, -1, -1).flatten())

    def forward(self, queries: Tensor, references: Tensor, memory: Tensor, shapes: Sequence[Shape]) -> Tensor:
        """Compute the attention output of the queries: (B, Q, C).

        Args:
            queries: (B, Q, C), position included.
            references: (B, Q, 3) points, around which offsets count in cells of each level; or (B, Q, 6) boxes (centre,
                extent), around which they count in parts of the box. In [0, 1] of the image.
            memory: (B, S, C), the cells of all levels, finest level first.
            shapes: (D, H, W) of each level.
        """
        layout = {"n": self.num_heads, "l": self.num_levels, "p": self.num_points}
        offsets = rearrange(self.offsets(queries).float(), "b q (n l p xyz) -> b q n l p xyz", **layout)
        weights = self.weights(queries).float().unflatten(2, (self.num_heads, -1)).softmax(dim=3)
        center = references[:, :, None, None, None, :3]
        if references.shape[2] == 3:
            cells = torch.tensor(shapes, dtype=offsets.dtype).to(offsets.device, non_blocking=True)
            unit = 1 / cells[:, None]  # (L, 1, 3)
        else:
            unit = references[:, :, None, None, None, 3:] / (2 * self.num_points)
        parts = self.value(memory).split([d * h * w for d, h, w in shapes], dim=1)
        levels = [
            rearrange(part, "b (d h w) (n c) -> b n c d h w", d=d, h=h, n=self.num_heads)
            for part, (d, h, _) in zip(parts, shapes, strict=True)
        ]
        weights = rearrange(weights, "b q n (l p) -> b q n l p", l=self.num_levels)
        result: Tensor = self.output(sample_levels(levels, center + offsets * unit, weights).to(queries.dtype))
        return result


def _directions(count: int) -> Tensor:
    """(count, 3) directions, the longest coordinate of each 1: corners of a cube for 8, else a spiral on a sphere."""
    if count == 8:
        return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    index = torch.arange(count) + 0.5
    height, turn = 1 - 2 * index / count, index * 2.399963  # the golden angle
    radius = (1 - height**2).sqrt()
    directions = torch.stack([height, radius * turn.cos(), radius * turn.sin()], dim=1)
    return directions / directions.abs().amax(dim=1, keepdim=True)
