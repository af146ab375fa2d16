"""Random block masks: a pure function of each sample's seed, the same on every device."""

from __future__ import annotations

import torch
from einops import repeat
from torch import Tensor

from medpretrain3d.errors import UserError
from medpretrain3d.processes import first_process
from medpretrain3d.randomness import counter_random

Triple = tuple[int, int, int]


def random_block_mask(
    seed: Tensor, shape: Triple, block: Triple, ratio: float, drawn_from: tuple[float, float] | None = None
) -> Tensor:
    """Hide the same number of blocks in every sample, at places drawn from its seed.

    Args:
        seed: (B,) int64.
        shape: patch (D, H, W) in voxels, a multiple of `block`.
        block: block (D, H, W) in voxels.
        ratio: share of blocks to hide, in (0, 1).
        drawn_from: least and greatest share that it was drawn from. Where rounding leaves some blocks hidden and some
            visible for some of them, one block at least is hidden and one visible for all; None is `ratio` alone.

    Returns:
        (B, D / block_d, H / block_h, W / block_w) bool, True where hidden.

    Raises:
        UserError: the patch is no multiple of the block, or rounding leaves nothing hidden or nothing visible.
    """
    grid = tuple(size // edge for size, edge in zip(shape, block, strict=True))
    if any(size % edge for size, edge in zip(shape, block, strict=True)):
        raise UserError(f"patch {shape} is no multiple of the mask block {block}; change data.patch or mask_block")
    num_blocks = grid[0] * grid[1] * grid[2]
    low, high = drawn_from or (ratio, ratio)
    least, most = round(low * num_blocks), round(high * num_blocks)
    if num_blocks < 2 or most < 1 or least > num_blocks - 1:
        share, count = (f"{low}", f"{least}") if low == high else (f"({low}, {high})", f"{least} to {most}")
        raise UserError(
            f"mask_ratio {share} hides {count} of {num_blocks} blocks of patch {shape}; "
            "wanted at least one hidden and one visible block; use a larger patch or smaller blocks"
        )
    num_hidden = min(max(round(ratio * num_blocks), 1), num_blocks - 1)
    hidden_index = counter_random(seed, num_blocks).argsort(dim=1)[:, :num_hidden]  # (B, num_hidden)
    hidden = torch.zeros(len(seed), num_blocks, dtype=torch.bool, device=seed.device)
    hidden.scatter_(1, hidden_index, True)
    return hidden.reshape(len(seed), *grid)


def hidden_share(seed: Tensor, low: float, high: float) -> float:
    """Return share of blocks to hide in a batch: uniform in [low, high), drawn from the seed of its first sample.

    One share for the batch of all processes, so that every sample has as many visible blocks and they stack.
    """
    if low == high:
        return low
    drawn: list[int] = counter_random(~first_process(seed[:1]), 1)[0].tolist()  # ~: not those that place the blocks
    (bits,) = drawn
    return low + (high - low) * ((bits >> 11) & (2**53 - 1)) / 2**53


def expand_blocks(hidden: Tensor, block: Triple) -> Tensor:
    """Block mask (B, d, h, w) to voxel mask (B, 1, d * block_d, h * block_h, w * block_w)."""
    return repeat(hidden, "b d h w -> b 1 (d pd) (h ph) (w pw)", pd=block[0], ph=block[1], pw=block[2])
