"""The contract of transformers over one grid of patches, whose tokens an objective may hide."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from medpretrain3d.backbones.base import Backbone, Triple
from medpretrain3d.errors import UserError
from medpretrain3d.randomness import draw_bits, to_uniform


class TokenBackbone(Backbone):
    """A transformer without pooling: one token per patch, one level at the stride of the patch.

    Tokens are in the order (d h w), W fastest. Hiding tokens is the objective's affair, in one of two ways: hand
    `encode` the index of those that stay, or replace some of what `embed` gave by a mask token.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ViT
        >>> backbone = ViT(preset="XXS", patch_size=(8, 8, 8), position_grid=(2, 2, 2))
        >>> tokens = backbone.embed(torch.zeros(1, 1, 16, 16, 16))
        >>> tokens.shape
        torch.Size([1, 8, 48])
    """

    patch_size: Triple
    embeds_patches_alone: bool = True
    """Whether a token of `embed` is a function of its own voxels alone, so that hiding it hides them."""
    width: int
    """Channels of a token."""

    @property
    def embedding(self) -> nn.Module:
        """What maps an image to its tokens: `patch_embed`, as timm calls it, unless a subclass has another."""
        return self.get_submodule("patch_embed")

    @property
    def depth(self) -> int:
        """Number of blocks that `encode_at` counts: the entries of `blocks`, 0 where there is no such list."""
        blocks = self._modules.get("blocks")
        return len(blocks) if isinstance(blocks, nn.ModuleList) else 0

    def embed(self, image: Tensor) -> Tensor:
        """Image (B, C, D, H, W) to patch tokens (B, N, width), each a function of its own voxels, without position."""
        result: Tensor = self.embedding(image)
        return result

    def encode(self, tokens: Tensor, grid: Triple, keep_index: Tensor | None = None) -> Tensor:
        """Add positions, drop what is not kept, and run the blocks.

        Args:
            tokens: (B, N, width) of `embed`, all of them.
            grid: tokens along (D, H, W), of `grid`.
            keep_index: (B, N_keep) int64; the other tokens are never computed with. `None` keeps all.

        Returns:
            (B, N_keep, width) in the order of `keep_index`; class or register tokens are not among them.
        """
        return self.encode_at(tokens, grid, [self.depth - 1], keep_index)[0]

    def encode_with_class(self, tokens: Tensor, grid: Triple) -> tuple[Tensor, Tensor]:
        """Return what stands for the whole image (B, width), and what `encode` gives for all tokens (B, N, width).

        The first is the class token; the mean over the tokens in a transformer without one.
        """
        features = self.encode(tokens, grid)
        return features.float().mean(dim=1), features

    def sharded_blocks(self) -> list[nn.Module]:
        """Return the transformer blocks."""
        return [block for part in self.modules() if isinstance(part, nn.ModuleList) for block in part]

    def encode_at(
        self, tokens: Tensor, grid: Triple, blocks: Sequence[int], keep_index: Tensor | None = None
    ) -> list[Tensor]:
        """Return what `encode` does behind each of some blocks, counted from 0, through the last norm.

        Raises:
            UserError: this transformer does not hand them out.
        """
        raise UserError(f"{type(self).__name__}: hands out its last block alone; leave `blocks` of the pyramid out")

    def grid(self, shape: tuple[int, ...]) -> Triple:
        """Return the number of tokens along each axis of an image (D, H, W)."""
        d, h, w = (size // edge for size, edge in zip(shape, self.patch_size, strict=True))
        return (d, h, w)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map an image (B, C, D, H, W) to one map (B, width, D / p_d, H / p_h, W / p_w)."""
        self.check_input(image)
        grid = self.grid(tuple(image.shape[2:]))
        tokens = self.encode(self.embed(image), grid)
        return [tokens_to_map(tokens, grid)]


class DropPath(nn.Module):
    """Leave a branch (B, N, C) out of whole samples in training; the others grow, so that its mean stays.

    Stochastic depth (Huang et al., 2016). Which samples is a function of their seeds, see `medpretrain3d.randomness`.

    Args:
        probability: of leaving the branch out of a sample.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Apply stochastic depth, sample by sample, to the branch that is added to the residual stream."""
        if not self.training or not self.probability:
            return x
        is_kept = to_uniform(draw_bits(len(x), 1, x.device)) >= self.probability  # (B, 1)
        return x * is_kept[:, :, None].to(x.dtype) / (1 - self.probability)


def drop_paths(last: float, depth: int, is_uniform: bool = False) -> list[DropPath]:
    """Return one for each of `depth` blocks, with a probability that rises from 0 to that of the last, or is that."""
    if is_uniform:
        return [DropPath(last) for _ in range(depth)]
    return [DropPath(last * index / max(1, depth - 1)) for index in range(depth)]


def tokens_to_map(tokens: Tensor, grid: Triple) -> Tensor:
    """Return tokens (B, N, C) in the order (d h w) to a map (B, C, d, h, w)."""
    return rearrange(tokens, "b (d h w) c -> b c d h w", d=grid[0], h=grid[1], w=grid[2])


def keep_tokens(tokens: Tensor, keep_index: Tensor) -> Tensor:
    """Gather the tokens (B, N, C) at `keep_index` (B, N_keep), in its order."""
    return tokens.gather(1, keep_index[..., None].expand(-1, -1, tokens.shape[-1]))


def resize_positions(
    table: Tensor, grid: Triple, new_grid: Triple, offset: Sequence[float] = (0.0, 0.0, 0.0)
) -> Tensor:
    """A position table (1, N, C) of one grid for another, trilinear between cell centres; the same table if equal.

    Args:
        table: of `grid`.
        grid: tokens along (D, H, W).
        new_grid: of the result.
        offset: DINOv2 resizes by (n + 0.1) / m instead of n / m, which moves the centers a little; negative where the
            axis was counted from its far end.
    """
    if grid == new_grid:
        return table
    volume = rearrange(table, "1 (d h w) c -> 1 c d h w", d=grid[0], h=grid[1], w=grid[2])
    if any(offset):
        far = [axis for axis, one in enumerate(offset, start=2) if one < 0]
        scale = [(new + abs(one)) / old for new, one, old in zip(new_grid, offset, grid, strict=True)]
        resized = F.interpolate(volume.flip(far), scale_factor=scale, mode="trilinear", align_corners=False).flip(far)
    else:
        resized = F.interpolate(volume, size=new_grid, mode="trilinear", align_corners=False)
    return rearrange(resized, "1 c d h w -> 1 (d h w) c")
