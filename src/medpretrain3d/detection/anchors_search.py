"""Anchor sizes for a data set: those that overlap its objects best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medpretrain3d.detection.anchors import AnchorGrid
from medpretrain3d.detection.box_grid import Shape
from medpretrain3d.errors import UserError

MAX_OBJECTS = 2000
"""Objects looked at per level: the greedy start compares each with each, 16 MB at this number."""
STEPS = (0.8, 0.9, 0.95, 1.05, 1.1, 1.25)
"""Factors that the descent tries on one extent of one anchor."""


@dataclass(frozen=True)
class AnchorChoice:
    """Result of the anchor search.

    `sizes` are extents (d, h, w) in voxels per detection level, as `AnchorGrid` takes them. `mean_best_iou` is the mean
    over objects of the IoU with the best anchor of any level on the same centre, `worst_tenth_iou` its 10th percentile,
    `objects_per_level` how many objects each level was chosen for.

    Example:
        >>> import torch
        >>> from medpretrain3d.detection import optimize_anchor_sizes
        >>> extents_vox = torch.tensor([[4.0, 4, 4], [4, 6, 6], [8, 8, 8], [8, 12, 12]])
        >>> choice = optimize_anchor_sizes(extents_vox, strides=[(2, 2, 2), (4, 4, 4)], anchors_per_level=2)
        >>> choice.sizes
        (((4.0, 4.0, 4.0), (4.0, 6.0, 6.0)), ((8.0, 8.0, 8.0), (8.0, 12.0, 12.0)))
        >>> choice.mean_best_iou
        1.0
    """

    sizes: tuple[tuple[tuple[float, float, float], ...], ...]
    mean_best_iou: float
    worst_tenth_iou: float
    objects_per_level: tuple[int, ...]

    def grid(self) -> AnchorGrid:
        """Return the anchors of these sizes."""
        return AnchorGrid(self.sizes)


def concentric_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return IoU of boxes with extents `a` (N, 3) and `b` (M, 3) on one centre: (N, M)."""
    intersection = torch.minimum(a[:, None], b[None]).prod(dim=2)
    return intersection / (a.prod(dim=1)[:, None] + b.prod(dim=1)[None] - intersection)


def optimize_anchor_sizes(
    extents_vox: Tensor, strides: Sequence[Shape], anchors_per_level: int = 9, cells_per_object: float = 2.0
) -> AnchorChoice:
    """Sizes of `anchors_per_level` anchors on each level that maximise the mean best IoU with the training objects.

    Each object goes to the level on which it is nearest to `cells_per_object` cells long (geometric mean over axes).
    The sizes of a level start as the objects that greedily add most overlap and are then moved one extent at a time; no
    two of them are equal, nor two of levels of one stride.
    A level without objects gets the sizes of its nearest neighbour, scaled by the stride. The result is a function of
    the set of objects: no randomness, and their order does not matter. 5,000 objects take a second on one core.

    Args:
        extents_vox: (N, 3) object extents along (D, H, W) in voxels of the training images.
        strides: of the detection levels, finest first.
        anchors_per_level: anchors of each cell.
        cells_per_object: length of an object in cells of the level that is to find it.

    Raises:
        UserError: no object, or an extent that is not positive.
    """
    extents = torch.as_tensor(extents_vox, dtype=torch.float32)
    if extents.ndim != 2 or extents.shape[1] != 3 or len(extents) == 0 or not bool((extents > 0).all()):
        raise UserError(
            f"anchor search: got object extents of shape {tuple(extents.shape)}, wanted (N, 3) with N > 0 and every "
            "extent positive; drop empty boxes first"
        )
    extents = _sorted_by_volume(extents)
    log_cells = (extents[None] / torch.tensor(strides, dtype=torch.float32)[:, None]).log().mean(dim=2)  # (L, N)
    level_of = (log_cells - math.log(cells_per_object)).abs().argmin(dim=0)
    objects = [extents[level_of == level] for level in range(len(strides))]
    found = {level: _search(of_level, anchors_per_level) for level, of_level in enumerate(objects) if len(of_level)}
    sizes: list[Tensor] = []
    for level, stride in enumerate(strides):
        source = min(found, key=lambda other: (abs(other - level), other))
        scale = torch.tensor(stride) / torch.tensor(strides[source])
        sizes.append(
            _distinct(found[source] * scale, [sizes[other] for other in range(level) if strides[other] == stride])
        )
    best = concentric_iou(extents, torch.cat(sizes)).amax(dim=1)
    return AnchorChoice(
        sizes=tuple(tuple((round(d, 1), round(h, 1), round(w, 1)) for d, h, w in level.tolist()) for level in sizes),
        mean_best_iou=float(best.mean()),
        worst_tenth_iou=float(best.quantile(0.1)),
        objects_per_level=tuple(len(of_level) for of_level in objects),
    )


def _distinct(sizes: Tensor, of_other_levels: Sequence[Tensor] = ()) -> Tensor:
    """Sizes (count, 3) to a tenth of a voxel, which reads well in a recipe; one that is there already is made another.

    Objects of few kinds leave anchors over, which the descent may move onto each other: an equal anchor costs a head's
    channels and finds nothing more. Its third-octave neighbours, larger and smaller, are tried in turn.
    """
    taken = {_tenths(size) for level in of_other_levels for size in level}
    tenths: dict[tuple[int, ...], None] = {}
    for size in sizes:
        for step in range(6 * (len(sizes) + len(taken))):
            scaled = size * 2 ** ((-1) ** step * ((step + 1) // 2) / 3)
            key = _tenths(scaled)
            if key not in tenths and key not in taken:
                tenths[key] = None
                break
    return _sorted_by_volume(torch.tensor(list(tenths), dtype=torch.float32) / 10)


def _tenths(size: Tensor) -> tuple[int, ...]:
    return tuple(int(edge) for edge in (size * 10).round().clamp(min=1).tolist())


def _search(extents: Tensor, count: int) -> Tensor:
    """Return (count, 3) extents for the objects (N, 3) of one level, smallest volume first."""
    if len(extents) > MAX_OBJECTS:  # evenly through the objects sorted by volume
        extents = extents[torch.linspace(0, len(extents) - 1, MAX_OBJECTS).round().long()]
    sizes = _greedy_medoids(extents, count)
    return _sorted_by_volume(_descend(extents, sizes))


def _greedy_medoids(extents: Tensor, count: int) -> Tensor:
    """Objects chosen one after the other, each adding most to the mean best IoU; then larger and smaller variants."""
    iou = concentric_iou(extents, extents)
    best = extents.new_zeros(len(extents))
    chosen: list[Tensor] = []
    while len(chosen) < count and bool((best < 1 - 1e-6).any()):
        medoid = int((iou - best[:, None]).clamp(min=0).sum(dim=0).argmax())
        best = torch.maximum(best, iou[:, medoid])
        chosen.append(extents[medoid])
    medoids = torch.stack(chosen)
    variant = 0
    while len(chosen) < count:  # fewer kinds of objects than anchors: neighbours in size catch what is yet unseen
        step = variant // len(medoids) + 1
        chosen.append(medoids[variant % len(medoids)] * 2 ** ((-1) ** step * ((step + 1) // 2) / 3))
        variant += 1
    return torch.stack(chosen)


def _descend(extents: Tensor, sizes: Tensor, max_rounds: int = 20) -> Tensor:
    """Return coordinate descent on the mean best IoU: one extent of one anchor at a time, until nothing improves."""
    iou = concentric_iou(extents, sizes)  # (N, count)
    for _ in range(max_rounds):
        improved = False
        for index in range(len(sizes)):
            others = torch.cat([iou[:, :index], iou[:, index + 1 :]], dim=1)
            floor = others.amax(dim=1) if others.shape[1] else iou.new_zeros(len(extents))
            trials = sizes[index].repeat(1 + 3 * len(STEPS), 1)  # the first trial is to stay
            for axis in range(3):
                rows = slice(1 + axis * len(STEPS), 1 + (axis + 1) * len(STEPS))
                trials[rows, axis] *= torch.tensor(STEPS)
            score = torch.maximum(concentric_iou(extents, trials), floor[:, None]).mean(dim=0)
            best = int(score.argmax())
            if score[best] > score[0] + 1e-5:
                sizes[index], improved = trials[best], True
                iou[:, index] = concentric_iou(extents, sizes[index : index + 1])[:, 0]
        if not improved:
            break
    return sizes


def _sorted_by_volume(extents: Tensor) -> Tensor:
    keys = [(d * h * w, d, h, w) for d, h, w in extents.tolist()]
    return extents[sorted(range(len(keys)), key=keys.__getitem__)]
