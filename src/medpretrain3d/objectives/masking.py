"""Which blocks of a patch are hidden: a pure function of each sample's seed, the same on every device."""

from __future__ import annotations

import torch
from einops import repeat
from torch import Tensor

from medpretrain3d.errors import UserError

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
    """Share of blocks to hide in a batch: uniform in [low, high), drawn from the first sample's seed.

    One share for the batch, so that every sample has as many visible blocks and they stack.
    """
    if low == high:
        return low
    bits = _shift_right(counter_random(~seed[:1], 1), 11)  # ~: not the numbers that place the blocks
    return low + (high - low) * bits.item() / 2**53


def expand_blocks(hidden: Tensor, block: Triple) -> Tensor:
    """Block mask (B, d, h, w) to voxel mask (B, 1, d * block_d, h * block_h, w * block_w)."""
    return repeat(hidden, "b d h w -> b 1 (d pd) (h ph) (w pw)", pd=block[0], ph=block[1], pw=block[2])


def counter_random(seed: Tensor, count: int, start: int = 0) -> Tensor:
    """Random int64 numbers (B, count), a pure function of (seed, position); the first one's position is `start`.

    The finaliser of SplitMix64 (Steele et al., 2014) on a counter: no state, so CPU and GPU agree and a resumed run
    draws what the uninterrupted one would have drawn.
    """
    position = torch.arange(start + 1, start + count + 1, dtype=torch.int64, device=seed.device)
    x = _mix(seed)[:, None] + position[None, :] * _GOLDEN
    return _mix(x)


_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # the increment of SplitMix64 as a signed 64-bit number


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    x = (x ^ _shift_right(x, 27)) * (0x94D049BB133111EB - (1 << 64))
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    # torch shifts int64 arithmetically; the mask clears the copies of the sign bit.
    return (x >> bits) & ((1 << (64 - bits)) - 1)
