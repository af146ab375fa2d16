"""What is known about a case, brought onto the grid of its stored voxels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from medpretrain3d.data.case import Object
from medpretrain3d.data.grid import Grid
from medpretrain3d.data.importers.base import IGNORE, ObjectRule, RawCase
from medpretrain3d.data.importers.marks import boxes_of
from medpretrain3d.data.objects import TOO_SMALL, Instance, find_objects
from medpretrain3d.data.quarantine import Unusable
from medpretrain3d.data.volume import Volume, check_same_place, read_labels, resample_labels
from medpretrain3d.errors import UserError


@dataclass(frozen=True)
class Annotation:
    """Objects and ignore regions of a case, half-open boxes in voxels of the stored grid."""

    objects: tuple[Object, ...] = ()
    mask: np.ndarray | None = None
    """(D, H, W) uint16 object ids; None where there is no label map."""
    ignore_boxes: tuple[tuple[float, ...], ...] = ()
    num_too_small: int = 0
    """Parts of the label map that became background for being smaller than an object."""


def annotate(
    case: RawCase,
    rule: ObjectRule,
    min_voxels: int,
    image: Volume,
    spacing_mm: tuple[float, float, float] | None = None,
) -> Annotation:
    """Find a case's objects in its label map and among its marks.

    Boxes come from the label map as drawn, not from the resampled one, which may lose a voxel or a whole object, and
    from the marks as written: they are carried to the stored grid as exact numbers.

    Args:
        case: where the annotations are.
        rule: how a label map becomes objects.
        min_voxels: smaller objects of a label map become background.
        image: the scan before it is resampled.
        spacing_mm: of the stored grid (D, H, W); None is that of the scan.

    Raises:
        UserError: the label map cannot be read, lies elsewhere than the scan or holds unknown values, or a mark lies
            outside the scan.
    """
    target = image.grid.resampled(spacing_mm) if spacing_mm else image.grid
    mask, found = _from_labels(case, rule, min_voxels, image)
    boxes = _carried(np.array([one.box_vox for one in found]).reshape(-1, 6), image.grid, target)
    stored = None if mask is None else (resample_labels(mask, spacing_mm) if spacing_mm else mask).array[0]
    visible = set() if stored is None else set(np.unique(stored).tolist())
    objects = [
        Object(one.id if one.id in visible else 0, one.label, box, one.num_voxels)
        for one, box in zip(found, boxes, strict=True)
        if one.label not in (IGNORE, TOO_SMALL)
    ]
    marks = _inside(case, boxes_of(case.marks, image.source_grid), image.source_grid)
    for mark, box in zip(case.marks, _carried(marks, image.source_grid, target), strict=True):
        objects.append(Object(0, mark.label, box))
    regions = _clipped(boxes_of(case.ignore, image.source_grid), image.source_grid)
    ignored = [box for one, box in zip(found, boxes, strict=True) if one.label == IGNORE]
    ignored += _carried(regions[(regions[:, :3] < regions[:, 3:]).all(axis=1)], image.source_grid, target)
    num_too_small = sum(one.label == TOO_SMALL for one in found)
    return Annotation(tuple(objects), stored, tuple(ignored), num_too_small)


def _from_labels(
    case: RawCase, rule: ObjectRule, min_voxels: int, image: Volume
) -> tuple[Volume | None, list[Instance]]:
    if case.labels is None:
        return None, []
    labels = read_labels(case.labels)
    check_same_place(case.labels, labels.grid, case.images[0], image.grid)
    try:
        instances, found = find_objects(labels.array[0], case.class_of_value, rule, min_voxels)
    except UserError as error:
        raise Unusable(f"{case.labels}: {error}", "annotation") from error
    return Volume(instances[None], labels.grid, labels.source_grid), found


def _carried(boxes_vox: np.ndarray, grid: Grid, target: Grid) -> list[tuple[float, ...]]:
    boxes = boxes_vox.astype(np.float64) if grid == target else grid.map_boxes(boxes_vox, target)
    return [tuple(box) for box in boxes.tolist()]


def _inside(case: RawCase, boxes_vox: np.ndarray, grid: Grid) -> np.ndarray:
    """Marks of objects, cut at the scan's edge where a sphere or a rounded corner reaches over it."""
    middle = (boxes_vox[:, :3] + boxes_vox[:, 3:]) / 2
    is_inside = ((middle >= 0) & (middle <= grid.shape)).all(axis=1) & (boxes_vox[:, :3] < boxes_vox[:, 3:]).all(axis=1)
    if not is_inside.all():
        mark = case.marks[int(np.flatnonzero(~is_inside)[0])]
        raise Unusable(
            f"{mark} lies outside {case.images[0].name} of {grid.shape} voxels or is empty; "
            "correct it: is its frame the one stated, its lowest corner first?",
            "annotation",
        )
    return _clipped(boxes_vox, grid)


def _clipped(boxes_vox: np.ndarray, grid: Grid) -> np.ndarray:
    edges = np.array([*grid.shape, *grid.shape], dtype=np.float64)
    return np.clip(boxes_vox, 0, edges)


def marks_sha256(case: RawCase) -> str:
    """By which `prepare` knows whether the marks of a finished case changed."""
    return hashlib.sha256(repr((case.marks, case.ignore, case.patient)).encode()).hexdigest()
