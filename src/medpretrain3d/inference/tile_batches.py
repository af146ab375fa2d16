"""Tiles of a volume and their mirrored views as batches for a network."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medpretrain3d.inference.scan import TileReader
from medpretrain3d.inference.tiles import Triple


@dataclass(frozen=True)
class View:
    """One tile as the network sees it."""

    tile: int
    """Index into the list of tiles."""
    mirrored: tuple[int, ...]
    """Axes (0 = D, 1 = H, 2 = W) along which it is flipped."""


@dataclass(frozen=True)
class TileBatch:
    """Views that go through the network together."""

    views: list[View]
    images: Tensor
    """(B, C, *patch), in pinned memory where it goes to a GPU."""


def read_batches(
    tiles: TileReader,
    starts: Sequence[Triple],
    patch: Triple,
    views: Sequence[tuple[int, ...]],
    size: int,
    is_pinned: bool = False,
) -> Iterator[TileBatch]:
    """Read every tile that is not empty, in every view.

    Args:
        tiles: the volume.
        starts: min corner of each tile.
        patch: (D, H, W) of a tile.
        views: axes mirrored in each view.
        size: views per batch; the last may be smaller.
        is_pinned: whether the batches are in memory from which a GPU copies while others work.
    """
    seen = _views(tiles, starts, patch, views)
    while batch := list(itertools.islice(seen, size)):
        images = [image for _, image in batch]
        place = images[0].new_empty((len(images), *images[0].shape), pin_memory=is_pinned and images[0].is_cpu)
        yield TileBatch([view for view, _ in batch], torch.stack(images, out=place))


def _views(
    tiles: TileReader, starts: Sequence[Triple], patch: Triple, views: Sequence[tuple[int, ...]]
) -> Iterator[tuple[View, Tensor]]:
    for index, start in enumerate(starts):
        tile = tiles.read(start, patch)
        if tile is None:
            continue
        for mirrored in views:
            yield View(index, mirrored), tile.flip([axis + 1 for axis in mirrored]) if mirrored else tile
