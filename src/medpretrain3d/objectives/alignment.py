"""Spatial alignment of two views: `affine` of `medpretrain3d.loading.views.TwoViews`, applied to feature maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medpretrain3d.objectives.base import Batch
from medpretrain3d.precision.mixed import in_fp32


def cell_centers(grid: tuple[int, int, int], patch: tuple[int, int, int], device: torch.device) -> Tensor:
    """Places (N, 3) along (D, H, W), in voxels of the patch, of the centres of a grid's cells; W changes fastest."""
    along = [
        (torch.arange(count, device=device) + 0.5) * (edge / count) for count, edge in zip(grid, patch, strict=True)
    ]
    return torch.cartesian_prod(*along)


def carry(places: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """Places (B, N, 3) of one view to the voxels of another; `own` and `other` are (B, 3, 4) into one shared frame."""
    with in_fp32(places.device):  # bf16 turns 160.5 into 160
        to_other = torch.linalg.inv_ex(other[:, :, :3]).inverse  # asks no device whether it exists
        matrix, offset = to_other @ own[:, :, :3], to_other @ (own[:, :, 3:] - other[:, :, 3:])
        result: Tensor = places @ matrix.mT + offset.mT
    return result


def sample_at(feature: Tensor, places: Tensor, patch: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Read a feature map at places of its view.

    Args:
        feature: (B, C, d, h, w), any stride.
        places: (B, N, 3) along (D, H, W) in voxels of the view, the centre of voxel `i` at `i + 0.5`.
        patch: size (D, H, W) of the view in voxels.

    Returns:
        (B, N, C), linear between the centres of cells and constant beyond the last, and whether each place lies in the
        view (B, N).
    """
    size = torch.tensor(patch, dtype=places.dtype).to(places.device, non_blocking=True)
    share = places / size  # 0 and 1 are the faces of the view
    inside = ((share >= 0) & (share <= 1)).all(dim=2)
    where = (2 * share - 1).flip(-1)[:, :, None, None]  # grid_sample wants (w, h, d)
    read = F.grid_sample(feature.float(), where.float(), mode="bilinear", padding_mode="border", align_corners=False)
    return read[..., 0, 0].mT, inside


@torch.no_grad()
def view_pictures(batch: Batch) -> dict[str, Tensor]:
    """Return both views of the first sample, and the second as the first sees it: black where only one of them sees."""
    first, second = batch["image"][0].float()  # (C, D, H, W) each
    d, h, w = first.shape[1:]
    places = cell_centers((d, h, w), (d, h, w), first.device)[None]
    own, other = batch["affine"][:1].float().unbind(dim=1)
    read, inside = sample_at(second[None, :1], carry(places, own, other), (d, h, w))
    shared = read[0, :, 0].where(inside[0], -1.0).reshape(d, h, w)
    return {"view 1": first[0], "view 2": second[0], "view 2 seen from view 1": shared}
