"""Features at the points of a probe: of each level of a frozen encoder, and of the intensities themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medpretrain3d.backbones import Backbone
from medpretrain3d.errors import UserError
from medpretrain3d.precision.mixed import autocast
from medpretrain3d.probing.points import ProbePoints, points_of_map

if TYPE_CHECKING:
    from medpretrain3d.precision.names import Precision

INTENSITY_REACHES = (1, 3, 7)
"""Edges in voxels of the cubes whose mean and standard deviation are the features of intensities."""
Points = Iterable[tuple[Tensor, ProbePoints]]


def frozen_features(backbone: Backbone, points: Points, device: torch.device, precision: Precision) -> list[np.ndarray]:
    """Return the features of each level at all points, (N, C_l) float32 each; the encoder is not changed.

    Args:
        backbone: the encoder, which is put into evaluation mode.
        points: crops (C, D, H, W) and their points.
        device: where it runs.
        precision: in which it runs.

    Raises:
        UserError: a feature is not finite, from which a layer would learn nothing.
    """
    backbone.to(device).eval()
    found: list[list[np.ndarray]] = [[] for _ in backbone.levels]
    for image, asked in points:
        with torch.no_grad(), autocast(device, precision):
            maps = backbone(image[None].to(device))
        for level, features, kept in zip(backbone.levels, maps, found, strict=True):
            kept.append(points_of_map(features[0].float(), asked.points_vox, level.stride).cpu().numpy())
    result = [np.concatenate(kept) for kept in found]
    for number, features in enumerate(result):
        if not np.isfinite(features).all():
            raise UserError(
                f"the encoder's features of level {number} are not finite in {precision}; did its run diverge? Probe "
                "an earlier one, or in fp32 (--precision 32-true)"
            )
    return result


def intensity_features(points: Points) -> np.ndarray:
    """Return mean and standard deviation of intensities around each point in cubes of some sizes, (N, 6 C) float32.

    What an encoder has to do better than: a bone is told from lung by its values alone.
    """
    kept = []
    for image, asked in points:
        columns = []
        for reach in INTENSITY_REACHES:
            mean, square = (
                functional.avg_pool3d(one[None], reach, stride=1, padding=reach // 2, count_include_pad=False)[0]
                for one in (image, image**2)
            )
            columns += [mean, (square - mean**2).clamp(min=0).sqrt()]
        kept.append(points_of_map(torch.cat(columns), asked.points_vox, (1, 1, 1)).numpy())
    return np.concatenate(kept)
