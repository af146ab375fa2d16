"""Random block masks: a pure function of each sample's seed, the same on every device."""

from __future__ import annotations

import torch
from einops import repeat
from torch import Tensor

from medpretrain3d.errors import UserError
from medpretrain3d.processes import first_process
from medpretrain3d.randomness import counter_random

Triple = tuple[int, int, int]


def random_block_mask(seed: Tensor, shape: Triple, block: Triple, ratio: float) -> Tensor:
    """Hide the same number of blocks in every sample, at places drawn from its seed.

    Args:
        seed: (B,) int64.
        shape: patch (D, H, W) in voxels, a multiple of `block`.
        block: block (D, H, W) in voxels.
        ratio: share of blocks to hide, in (0, 1).

    Returns:
        (B, D / block_d, H / block_h, W / block_w) bool, True where hidden.

    Raises:
        UserError: the patch is no multiple of the block, or rounding leaves nothing hidden or nothing visible.
    """
    grid = tuple(size // edge for size, edge in zip(shape, block, strict=True))
    if any(size % edge for size, edge in zip(shape, block, strict=True)):
        raise UserError(f"patch {shape} is no multiple of the mask block {block}; change data.patch or mask_block")
    num_blocks = grid[0] * grid[1] * grid[2]
    num_hidden = round(ratio * num_blocks)
    if not 0 < num_hidden < num_blocks:
        raise UserError(
            f"mask_ratio {ratio} hides {num_hidden} of {num_blocks} blocks of patch {shape}; "
            "wanted at least one hidden and one visible block; use a larger patch or smaller blocks"
        )
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
