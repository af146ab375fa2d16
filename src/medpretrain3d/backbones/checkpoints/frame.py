"""Weights of a network that saw volumes in another frame, brought into this package's: axes permuted and reversed.

An orientation names where the index of each axis grows to, in the letters of nibabel: `RAS` has axes (right, anterior,
superior). Volumes here are `SPL`: (superior, posterior, left). What patches see is turned without loss: kernel and
position table are permuted and flipped; of rotary channels the thirds of each head, which belong to the three axes,
are permuted, and along a flipped axis the second channel of every pair changes its sign in queries and keys, which
turns the angle round. Convolutions that overlap are turned as far as that is exact: see `NOT_EXACT`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from medpretrain3d.backbones.base import Triple
from medpretrain3d.errors import UserError

OWN = "SPL"
_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}
_AXIS = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
NOT_EXACT = (
    "kernels turned from {theirs} to {ours}: exact where an axis changes its place; along a reversed axis "
    "(of {flipped}) exact at full resolution and one voxel off after each strided convolution of an even size"
)


@dataclass(frozen=True)
class Turn:
    """How a volume of another orientation becomes one of ours; of our axes (D, H, W).

    Example:
        >>> from medpretrain3d.backbones.checkpoints.frame import turn_from
        >>> turn_from("RAS")
        Turn(source=(2, 1, 0), is_flipped=(False, True, True))
    """

    source: Triple
    """Which of their axes each of ours is."""
    is_flipped: tuple[bool, bool, bool]
    """Whether it runs the other way."""

    @property
    def is_identity(self) -> bool:
        """Whether both frames are the same."""
        return self.source == (0, 1, 2) and not any(self.is_flipped)

    @property
    def flipped(self) -> list[int]:
        """Numbers of our axes that run the other way."""
        return [axis for axis, flips in enumerate(self.is_flipped) if flips]

    def volume(self, volume: Tensor) -> Tensor:
        """Turn the last three axes: an image, a map of features or a convolution's kernel."""
        first = volume.ndim - 3
        order = [*range(first), *(first + axis for axis in self.source)]
        return volume.permute(order).flip([first + axis for axis in self.flipped]).contiguous()

    def sizes(self, sizes: tuple[int, ...] | list[int]) -> Triple:
        """Permute what is counted along each axis, such as a patch or a grid."""
        d, h, w = (int(sizes[axis]) for axis in self.source)
        return (d, h, w)

    def stated(self, sizes: Any) -> Any:
        """Permute what a plan states of each axis, such as a spacing; whatever else it states stays."""
        return [sizes[axis] for axis in self.source] if isinstance(sizes, list | tuple) and len(sizes) == 3 else sizes

    def kernels(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn the convolutions (out, in, d, h, w) among weights."""
        return {name: self.volume(value) if value.ndim == 5 else value for name, value in weights.items()}

    def table(self, table: Tensor, grid: Triple) -> Tensor:
        """Turn a position table (1, R + N, C) of a grid, R rows for tokens without a place first."""
        num_placeless = table.shape[1] - grid[0] * grid[1] * grid[2]
        volume = rearrange(table[:, num_placeless:], "1 (d h w) c -> c d h w", d=grid[0], h=grid[1], w=grid[2])
        return torch.cat([table[:, :num_placeless], rearrange(self.volume(volume), "c d h w -> 1 (d h w) c")], dim=1)

    def rotary(self, projection: Tensor, heads: int) -> Tensor:
        """Turn the rows of a query or key projection (heads x 3 axes x pairs x 2, ...), weight or bias."""
        channels: Tensor = projection.unflatten(0, (heads, 3, -1, 2))[:, list(self.source)].clone()
        channels[:, self.flipped, :, 1] *= -1
        return channels.flatten(0, 3).contiguous()


def turn_from(orientation: str) -> Turn:
    """Return the way from an orientation to ours.

    Raises:
        UserError: it is not three letters, one of each of R/L, A/P and S/I.
    """
    if sorted(_AXIS.get(letter, -1) for letter in orientation) != [0, 1, 2]:
        raise UserError(
            f"orientation '{orientation}': wanted three letters, one of each of R/L, A/P and S/I, that say where the "
            "index of each axis grows to, such as RAS or SPL"
        )
    theirs = [_AXIS[letter] for letter in orientation]
    d, h, w = (theirs.index(_AXIS[letter]) for letter in OWN)
    flips = [orientation[source] == _OPPOSITE[letter] for source, letter in zip((d, h, w), OWN, strict=True)]
    return Turn((d, h, w), (flips[0], flips[1], flips[2]))


def turn_of_transposed(where: str, order: Sequence[int] | None) -> tuple[Turn, list[str]]:
    """Return the way from the axes of a network that nnU-Net trained to ours, and a note where they are others.

    Its plans say `transpose_forward` in the order of a file's (z, y, x), which is ours: spacing, patch, strides and
    kernels of plan and network are along the axes thereafter.

    Args:
        where: names the file in errors.
        order: which of our axes each of the network's is; None where the plan does not say.

    Raises:
        UserError: it is no order of three axes.
    """
    if order is None:
        return Turn((0, 1, 2), (False, False, False)), []
    if not isinstance(order, list | tuple) or sorted(map(str, order)) != ["0", "1", "2"]:
        raise UserError(f"{where}: its plans state transpose_forward {order}, wanted an order of the axes 0, 1 and 2")
    axes = [int(axis) for axis in order]
    turn = Turn((axes.index(0), axes.index(1), axes.index(2)), (False, False, False))
    note = f"trained with axes transposed to {axes}: kernels, strides, spacing and patch turned back, which is exact"
    return turn, [] if turn.is_identity else [note]


def turn_convolutions(weights: Mapping[str, Tensor], orientation: str) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights of a convolutional network with all kernels turned, and a note where that is not exact.

    Args:
        weights: convolutions (out, in, d, h, w) among other tensors.
        orientation: of the volumes that it was trained on.
    """
    turn = turn_from(orientation)
    if turn.is_identity:
        return dict(weights), []
    turned = turn.kernels(weights)
    flipped = ", ".join(OWN[axis] for axis in turn.flipped)
    note = (
        NOT_EXACT.format(theirs=orientation, ours=OWN, flipped=flipped)
        if flipped
        else (f"kernels turned from {orientation} to {OWN}, which is exact")
    )
    return turned, [note]


def orientations() -> list[str]:
    """Return all 48 orientations."""
    orders = [("RL", "AP", "SI"), ("RL", "SI", "AP"), ("AP", "RL", "SI"), ("AP", "SI", "RL"), ("SI", "RL", "AP")]
    return ["".join(letters) for order in [*orders, ("SI", "AP", "RL")] for letters in product(*order)]
