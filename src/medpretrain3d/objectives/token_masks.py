"""Tokens that a student does not see, in blocks or one by one: a function of each sample's seed, drawn on the CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.objectives.counter_rng import CounterRNG

Triple = tuple[int, int, int]
MaskShape = Literal["blocks", "tokens"]

LEAST_TOKENS, LONGEST_ASPECT = 4, 1 / 0.3
"""Of a block: how many tokens it has where as many are left to hide, and the ratio of two of its edges (BEiT)."""
TRIES = 40
"""Blocks that are looked at; what is missing then is hidden token by token."""


def draw_token_masks(
    seeds: Sequence[int],
    num_views: int,
    grid: Triple,
    probability: float,
    ratio: tuple[float, float],
    shape: MaskShape = "blocks",
) -> np.ndarray:
    """Draw which tokens of which views are hidden.

    One number of a sample decides for all its views, in turn: with a probability of one half and two views, one of the
    two is masked, whichever.

    Args:
        seeds: of the samples (B).
        num_views: V, views of each sample.
        grid: tokens along (D, H, W).
        probability: that tokens of a view are hidden at all.
        ratio: between which shares of its tokens are hidden then, drawn uniformly; at least one is, and not all.
        shape: `blocks` are cuboids that may overlap, `tokens` are single ones.

    Returns:
        (V B, N) bool, all first views first, True where hidden; tokens in the order (d h w).

    Raises:
        UserError: one token alone, which cannot be hidden and seen.
    """
    num_tokens = math.prod(grid)
    if num_tokens < 2:
        raise UserError(
            f"mask of {grid} tokens: wanted at least two, to hide one; use a larger patch or smaller tokens"
        )
    hidden = np.zeros((num_views, len(seeds), *grid), dtype=bool)
    for sample, seed in enumerate(seeds):
        draws = CounterRNG(seed)
        first = float(draws.uniform())
        for view in range(num_views):
            share = ratio[0] + (ratio[1] - ratio[0]) * float(draws.uniform())
            if (first + view / num_views) % 1 < probability:
                count = min(max(1, round(share * num_tokens)), num_tokens - 1)
                _hide(hidden[view, sample], count, draws, shape)
    return hidden.reshape(num_views * len(seeds), num_tokens)


def _hide(hidden: np.ndarray, count: int, draws: CounterRNG, shape: MaskShape) -> None:
    """Hide exactly `count` tokens of a grid (d, h, w)."""
    left = count
    for _ in range(TRIES if shape == "blocks" else 0):
        block = hidden[_block(draws, hidden.shape, left)]
        if 0 < (added := int(block.size - block.sum())) <= left:
            block[:] = True
            left -= added
    visible = np.flatnonzero(~hidden)
    hidden.flat[visible[draws.bits(len(visible)).argsort()[:left]]] = True


def _block(draws: CounterRNG, grid: tuple[int, ...], most: int) -> tuple[slice, ...]:
    """Draw a cuboid of about `LEAST_TOKENS` to `most` tokens, anywhere in the grid."""
    least = min(LEAST_TOKENS, most)
    volume = least + (most - least) * float(draws.uniform())
    stretch = (draws.uniform(3) - 0.5) * math.log(LONGEST_ASPECT)
    edges = np.rint(volume ** (1 / 3) * np.exp(stretch - stretch.mean())).astype(int).clip(1, grid)
    corner = draws.integers(0, np.array(grid) - edges, 3)
    return tuple(slice(first, first + edge) for first, edge in zip(corner.tolist(), edges.tolist(), strict=True))
