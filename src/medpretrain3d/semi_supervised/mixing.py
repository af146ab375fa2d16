"""MixUp of crops and of objects (Zhang et al., 2018; Wang et al., 2020), as a function of the crops' seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medpretrain3d.boxes import Targets


def own_share(random: np.random.Generator, eta: float) -> float:
    """Draw the share of a sample in its mixture with another one, at least a half: `max(l, 1 - l)`, l ~ Beta(eta, eta).

    With `eta` 0 there is nothing of the other one.
    """
    drawn = float(random.beta(eta, eta)) if eta else 1.0
    return max(drawn, 1 - drawn)


def mixed(own: Tensor, other: Tensor, shares: Sequence[float]) -> Tensor:
    """Return `share * own + (1 - share) * other`, row by row of tensors (N, ...)."""
    share = torch.tensor(shares, dtype=own.dtype).to(own.device, non_blocking=True)
    return other.lerp(own, share.view(-1, *[1] * (own.dim() - 1)))


def mixed_objects(image: Tensor, targets: Targets, random: np.random.Generator, eta: float) -> Tensor:
    """Return a crop each of whose objects has some of another object of its class in the crop, where there is one.

    The other one is brought to its size. An object keeps at least half of its own, its box and its class, so anchors
    learn what they would have learned.

    Args:
        image: (C, D, H, W).
        targets: what is in it, on the CPU.
        random: is advanced.
        eta: see `own_share`.
    """
    result = image.clone()
    for number, label in enumerate(targets.labels.tolist()):
        others = [one for one in torch.nonzero(targets.labels == label)[:, 0].tolist() if one != number]
        if not others:
            continue
        other, share = others[int(random.integers(len(others)))], own_share(random, eta)
        here, there = (_voxels(targets.boxes[one], image) for one in (number, other))
        taken = F.interpolate(image[there][None], image[here].shape[1:], mode="trilinear", align_corners=False)[0]
        result[here] = taken.lerp(image[here], share)
    return result


def _voxels(box: Tensor, image: Tensor) -> tuple[slice, ...]:
    """Return the voxels that a box touches, at least one along each axis."""
    low, high = box[:3].floor().long().tolist(), box[3:].ceil().long().tolist()
    edges = []
    for start, end, size in zip(low, high, image.shape[1:], strict=True):
        start = min(max(start, 0), size - 1)
        edges.append(slice(start, max(start + 1, min(end, size))))
    return (slice(None), *edges)
