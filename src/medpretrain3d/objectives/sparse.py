"""Running a convolutional network on the visible blocks of a volume alone.

Blocks (B, C, D, H, W) that are visible are gathered along the batch axis, (B N, C, d, h, w), and the network runs on
these. While it does, a context gives each convolution the border voxels of neighbouring blocks (zero where those are
hidden), each pooling likewise (minus infinity), and takes the statistics of a group norm over all blocks of a sample.
Hidden voxels are never computed with, so nothing can leak from them; the weights are those of the plain network.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from medpretrain3d.backbones import Backbone
from medpretrain3d.errors import UserError
from medpretrain3d.randomness import row_seeds, sample_seeds

Triple = tuple[int, int, int]
Slices = tuple[slice, slice, slice]

# Of the blocks' inner sizes these make something that is not a function of the volume.
REFUSED = {"instance_norm", "conv2d", "conv_transpose3d", "interpolate", "max_pool2d", "adaptive_avg_pool3d"}


class VisibleBlocks(TorchFunctionMode):
    """Visible blocks of a batch, and the context in which a network runs on them.

    Args:
        hidden: (B, d, h, w) bool; as many are hidden in every sample. Which block lies beside which is found on the
            CPU: it decides what is computed, and a mask on another device is waited for.
        block: block (D, H, W) in voxels, a multiple of every stride of the network.
        device: of the blocks; that of the mask by default.
    """

    def __init__(self, hidden: Tensor, block: Triple, device: torch.device | None = None) -> None:
        super().__init__()
        visible = ~hidden.cpu().numpy()
        self.grid = tuple(hidden.shape[1:])
        self.block = block
        self.batch = len(hidden)
        self.device = hidden.device if device is None else device
        self._places = np.argwhere(visible)  # (B N, 4): sample and place on the grid
        # Row of each block among the gathered ones, -1 where it is hidden.
        self._rows = np.where(visible, visible.cumsum().reshape(visible.shape) - 1, -1)
        flat = np.flatnonzero(visible)
        # (5, B N): sample, place on the grid, and place among all blocks.
        self.places = self._sent(np.concatenate([self._places.T, flat[None]]))
        self._seams: dict[Triple, list[tuple[Triple, Tensor, Tensor]]] = {}

    def gather(self, image: Tensor) -> Tensor:
        """Return the visible blocks (B N, C, d, h, w) of a volume (B, C, D, H, W)."""
        d, h, w = self.grid
        blocks = rearrange(image, "b c (gd d) (gh h) (gw w) -> b gd gh gw c d h w", gd=d, gh=h, gw=w)
        return blocks[tuple(self.places[:4])]

    def scatter(self, blocks: Tensor, fill: Tensor) -> Tensor:
        """Return blocks (B N, C, d, h, w) back in their places, `fill` (C,) at hidden ones: (B, C, D, H, W)."""
        shape = (self._rows.size, *blocks.shape[1:])
        everywhere = fill.to(blocks.dtype)[:, None, None, None].expand(shape)
        placed = everywhere.index_copy(0, self.places[4], blocks)
        d, h, w = self.grid
        return rearrange(placed, "(b gd gh gw) c d h w -> b c (gd d) (gh h) (gw w)", gd=d, gh=h, gw=w)

    def group_norm(
        self,
        x: Tensor,
        num_groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
        cudnn_enabled: bool = True,
    ) -> Tensor:
        """Group norm of (B N, C, d, h, w) with the statistics of all visible voxels of a sample."""
        samples = rearrange(x, "(b n) c d h w -> b c n d h w", b=self.batch)
        # Not F.group_norm, which refuses a single value; one visible voxel per channel becomes zero.
        normed = torch.group_norm(samples, num_groups, weight, bias, eps)
        return rearrange(normed, "b c n d h w -> (b n) c d h w")

    def seams(self, edge: Triple, margin: Triple) -> Iterator[tuple[Tensor, Tensor, Slices, Slices]]:
        """Iterate over the overlaps of each block's margin with its visible neighbors.

        Yields:
            rows of blocks, rows of their neighbours in one direction, voxels of the former with margin, of the latter.
        """
        d, h, w = (-(-width // size) for width, size in zip(margin, edge, strict=True))
        for offset, rows, sources in self._neighbors((d, h, w)):
            to, of = zip(*map(_overlap, offset, edge, margin), strict=True)
            yield rows, sources, to, of

    def _neighbors(self, reach: Triple) -> list[tuple[Triple, Tensor, Tensor]]:
        """Return the rows of blocks and of their visible neighbors, for each offset of up to `reach` blocks."""
        if reach not in self._seams:
            found = {}
            for d, h, w in itertools.product(*(range(-steps, steps + 1) for steps in reach)):
                if (d, h, w) != (0, 0, 0) and (pair := self._neighbors_at((d, h, w))).size:
                    found[d, h, w] = pair
            # All offsets at once: 26 small copies cost more than what they carry.
            sent = self._sent(np.concatenate(list(found.values()), axis=1)) if found else self.places[:2, :0]
            parts = sent.split([pair.shape[1] for pair in found.values()], dim=1)
            self._seams[reach] = [(offset, *part) for offset, part in zip(found, parts, strict=True)]
        return self._seams[reach]

    def _neighbors_at(self, offset: Triple) -> np.ndarray:
        """Return (2, n): rows of the blocks that have a visible neighbor there, and rows of these."""
        at = self._places[:, 1:] + offset
        inside = ((at >= 0) & (at < self.grid)).all(axis=1)
        sources = self._rows[(self._places[inside, 0], *at[inside].T)]
        is_visible = sources >= 0
        return np.stack([np.flatnonzero(inside)[is_visible], sources[is_visible]])

    def _sent(self, index: np.ndarray) -> Tensor:
        """Return an index on the device."""
        return torch.from_numpy(index).to(self.device, non_blocking=True)

    def _conv3d(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        return F.conv3d(self._with_margin(x, padding, 0.0), weight, bias, stride, 0, dilation, groups)

    def _max_pool3d(self, x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, **options: Any) -> Tensor:
        result: Tensor = F.max_pool3d(self._with_margin(x, padding, -torch.inf), kernel_size, stride, 0, **options)
        return result

    def _with_margin(self, x: Tensor, padding: Any, fill: float) -> Tensor:
        d, h, w = (padding,) * 3 if isinstance(padding, int) else padding
        return _Margin.apply(x, self, (d, h, w), fill) if (d, h, w) != (0, 0, 0) else x

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace what looks beyond one voxel; everything else is the same on blocks as on the volume."""
        name = getattr(func, "__name__", "")
        if name in REFUSED:
            raise UserError(f"SparK: the network computes with '{name}', which has no sparse form here; use MAE")
        ours: dict[str, Callable[..., Tensor]] = {
            "conv3d": self._conv3d,
            "max_pool3d": self._max_pool3d,
            "group_norm": self.group_norm,
        }
        chosen: Callable[..., Any] = ours.get(name, func)
        return chosen(*args, **(kwargs or {}))


class _Margin(torch.autograd.Function):
    """Blocks with a margin: the neighbours' voxels, or a fill where there are none to be seen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, blocks: VisibleBlocks, margin: Triple, fill: float) -> Tensor:
        ctx.blocks, ctx.margin, edge = blocks, margin, tuple(x.shape[2:])
        out = x.new_full((*x.shape[:2], *(size + 2 * width for size, width in zip(edge, margin, strict=True))), fill)
        out[_inner(edge, margin)] = x
        for rows, sources, to, of in blocks.seams(edge, margin):  # type: ignore[arg-type]  # three edges
            out[(rows, slice(None), *to)] = x[(sources, slice(None), *of)]
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = grads
        edge = tuple(size - 2 * width for size, width in zip(grad.shape[2:], ctx.margin, strict=True))
        back = grad[_inner(edge, ctx.margin)].clone(memory_format=torch.contiguous_format)
        for rows, sources, to, of in ctx.blocks.seams(edge, ctx.margin):
            # In one direction every block is the neighbour of one at most: no index is there twice.
            back[(sources, slice(None), *of)] += grad[(rows, slice(None), *to)]
        return back, None, None, None


def visible_features(
    backbone: Backbone, image: Tensor, hidden: Tensor, block: Triple
) -> tuple[list[Tensor], VisibleBlocks]:
    """Return features of the visible blocks, one tensor (B N, C_l, d, h, w) per level, and where they belong.

    Where nothing is hidden the volume is one block, and the network computes what it always does.

    Args:
        backbone: a convolutional network.
        image: (B, C, D, H, W); hidden voxels are not read.
        hidden: (B, d, h, w) bool; as many are hidden in every sample.
        block: block (D, H, W) in voxels, a multiple of the coarsest stride.
    """
    hidden = hidden.cpu()
    if not hidden.numpy().any():
        d, h, w = image.shape[2:]
        whole = VisibleBlocks(hidden[:, :1, :1, :1], (d, h, w), image.device)
        return backbone(image), whole
    blocks = VisibleBlocks(hidden, block, image.device)
    gathered = blocks.gather(image)
    # What is left out of a sample is left out of all its blocks.
    with blocks, sample_seeds(row_seeds(len(image), image.device)[blocks.places[0]]):
        return backbone(gathered), blocks


def _inner(edge: tuple[int, ...], margin: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the block inside its margin."""
    inner = (slice(width, width + size) for size, width in zip(edge, margin, strict=True))
    return (slice(None), slice(None), *inner)


def _overlap(offset: int, edge: int, margin: int) -> tuple[slice, slice]:
    """Along one axis: where a neighbour `offset` blocks away lies in a block with margin, and which of its voxels."""
    begin = margin + offset * edge  # of the neighbour, counted from the edge of the margin
    start, stop = max(0, begin), min(edge + 2 * margin, begin + edge)
    return slice(start, stop), slice(start - begin, stop - begin)
