"""Annotations of a case, brought onto the grid of its stored voxels."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.annotations import (
    BoxAnnotation,
    ObjectAnnotation,
    PointAnnotation,
    SphereAnnotation,
    boxes_of,
)
from medpretrain3d.ingest.importers.base import IGNORE, ObjectRule, RawCase
from medpretrain3d.ingest.label_layers import read_label_layers
from medpretrain3d.ingest.objects import TOO_SMALL, JoinedObjects, find_objects, join_layers
from medpretrain3d.store.case import Instance
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.hidden_objects import OVERLAPPING
from medpretrain3d.store.skipped_cases import InvalidCaseError
from medpretrain3d.store.volume import Volume, resample_labels

CUT_VOX = 0.5
"""A box that reaches further over the edge of its scan is told of; less is rounding."""


@dataclass(frozen=True)
class Annotation:
    """Objects and ignore regions of a case, half-open boxes in voxels of the stored grid."""

    objects: tuple[Instance, ...] = ()
    mask: np.ndarray | None = None
    """(D, H, W) uint16 object ids; None where there is no label map."""
    ignore_boxes: tuple[tuple[float, ...], ...] = ()
    partly_hidden: tuple[int, ...] = ()
    """Ids of objects whose ends the mask does not show, since others hide them there."""
    num_too_small: int = 0
    """Parts of the label map that became background for being smaller than an object."""
    remarks: Mapping[str, int] = field(default_factory=dict)
    """How often something was done that the annotations do not say."""

    def as_points(self) -> Annotation:
        """Return the same with the middle of each object's box alone, and no mask."""
        boxes = np.array([one.box_vox for one in self.objects]).reshape(-1, 6)
        middles = np.tile((boxes[:, :3] + boxes[:, 3:]) / 2, 2).tolist()
        objects = (Instance(0, one.label, tuple(middle)) for one, middle in zip(self.objects, middles, strict=True))
        return replace(self, objects=tuple(objects), mask=None, partly_hidden=())


def annotate(
    case: RawCase,
    rule: ObjectRule,
    min_voxels: int,
    image: Volume,
    spacing_mm: tuple[float, float, float] | None = None,
    is_straightened: bool = False,
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
        is_straightened: whether slices of a tilted gantry were moved back, which segmentations on them follow.

    Raises:
        UserError: the label map cannot be read, lies elsewhere than the scan or holds unknown values, or a mark lies
            outside the scan.
    """
    target = image.grid.resampled(spacing_mm) if spacing_mm else image.grid
    mask, joined, done = _from_labels(case, rule, min_voxels, image, is_straightened)
    found = joined.objects
    boxes = _carried(np.array([one.box_vox for one in found]).reshape(-1, 6), image.grid, target)
    stored = None if mask is None else (resample_labels(mask, spacing_mm) if spacing_mm else mask).array[0]
    visible = set() if stored is None else set(np.unique(stored).tolist())
    objects = [
        Instance(one.id if one.id in visible else 0, one.label, box, one.num_voxels)
        for one, box in zip(found, boxes, strict=True)
        if one.label not in (IGNORE, TOO_SMALL)
    ]
    annotations, grid = tuple(dict.fromkeys(case.annotations)), image.source_grid
    written = boxes_of(annotations, grid, image.tilted_grid)
    inside = _inside(case, annotations, written, image)
    for annotation, box in zip(annotations, _carried(inside, grid, target), strict=True):
        objects.append(Instance(0, annotation.label, box))
    regions = _clipped(boxes_of(tuple(dict.fromkeys(case.ignore)), grid, image.tilted_grid), grid)
    is_visible = (regions[:, :3] < regions[:, 3:]).all(axis=1)
    ignored = [box for one, box in zip(found, boxes, strict=True) if one.label == IGNORE]
    ignored += _carried(regions[is_visible], grid, target)
    remarks = {
        **done,
        "objects given twice, taken once": len(case.annotations) - len(annotations),
        "objects cut at the edge of their scan": int((np.abs(inside - written).max(axis=1, initial=0) > CUT_VOX).sum()),
        "objects without a size, kept as points": sum(isinstance(one, PointAnnotation) for one in annotations),
        "marks in pixels of a tilted gantry's slices, moved with them": len(
            marks_in_pixels(case) if image.tilted_grid else ()
        ),
        "ignore regions outside of their scan": int((~is_visible).sum()),
    }
    message = {name: count for name, count in remarks.items() if count}
    num_too_small = sum(one.label == TOO_SMALL for one in found)
    hidden = tuple(number for number in joined.partly_hidden if number in visible)
    return Annotation(tuple(objects), stored, tuple(ignored), hidden, num_too_small, message)


def _from_labels(
    case: RawCase, rule: ObjectRule, min_voxels: int, image: Volume, is_straightened: bool
) -> tuple[Volume | None, JoinedObjects, Counter[str]]:
    if case.labels is None:
        return None, JoinedObjects(np.zeros((0, 0, 0), np.uint16), []), Counter()
    labels = read_label_layers(case.labels, case, image, is_straightened)
    try:
        layers = [find_objects(one.array[0], labels.class_of_value, rule, min_voxels) for one in labels.maps]
        joined = join_layers(layers)
    except UserError as error:
        raise InvalidCaseError(f"{case.labels}: {error}", "annotation") from error
    shared = Counter({OVERLAPPING: joined.num_overlapping})
    first = labels.maps[0]
    return Volume(joined.instances[None], first.grid, first.source_grid), joined, +(labels.remarks + shared)


def _carried(boxes_vox: np.ndarray, grid: Grid, target: Grid) -> list[tuple[float, ...]]:
    boxes = boxes_vox.astype(np.float64) if grid == target else grid.map_boxes(boxes_vox, target)
    return [tuple(box) for box in boxes.tolist()]


def _inside(case: RawCase, annotations: Sequence[ObjectAnnotation], boxes_vox: np.ndarray, image: Volume) -> np.ndarray:
    """Marks of objects, cut at the scan's edge where a sphere or a rounded corner reaches over it."""
    grid = image.source_grid
    is_inside = _are_inside(annotations, boxes_vox, grid)
    is_flat = ~_have_size(annotations, boxes_vox) & (boxes_vox[:, :3] <= boxes_vox[:, 3:]).all(axis=1)
    if is_flat.any() and is_inside[~is_flat].all():
        annotation, count = annotations[int(np.flatnonzero(is_flat)[0])], int(is_flat.sum())
        raise InvalidCaseError(
            f"{count} of {len(annotations)} objects: {annotation} is empty; correct it, or give its center alone, "
            "which is a point, where nobody measured its size",
            "annotation",
        )
    if not is_inside.all():
        annotation, outside = annotations[int(np.flatnonzero(~is_inside)[0])], int((~is_inside).sum())
        raise InvalidCaseError(
            f"{outside} of {len(annotations)} objects: {annotation} lies outside {case.images[0].name} of {grid.shape} "
            f"voxels or is empty; {_other_frame(annotations, image)}",
            "annotation",
        )
    return _clipped(boxes_vox, grid)


def _are_inside(annotations: Sequence[ObjectAnnotation], boxes_vox: np.ndarray, grid: Grid) -> np.ndarray:
    """Return whether each box (N, 6) has an extent or is that of a point, and its middle lies in the scan: (N,)."""
    middle = (boxes_vox[:, :3] + boxes_vox[:, 3:]) / 2
    result: np.ndarray = ((middle >= 0) & (middle <= grid.shape)).all(axis=1) & _have_size(annotations, boxes_vox)
    return result


def _have_size(annotations: Sequence[ObjectAnnotation], boxes_vox: np.ndarray) -> np.ndarray:
    """Return whether each box (N, 6) has an extent, or is a point by intent and not for want of one: (N,)."""
    are_meant = np.array([isinstance(one, PointAnnotation) for one in annotations], dtype=bool)
    result: np.ndarray = (boxes_vox[:, :3] < boxes_vox[:, 3:]).all(axis=1) | are_meant
    return result


def _other_frame(annotations: Sequence[ObjectAnnotation], image: Volume) -> str:
    """Suggest a remedy for objects outside of their scan, such as a frame in which all of them would be inside."""
    for frame, order, signs, message in (
        (
            "lps_mm",
            (0, 1, 2),
            (-1, -1, 1),
            "all are inside if x and y change signs: are they in RAS, not in LPS?",
        ),
        ("voxels", (2, 1, 0), (1, 1, 1), "all are inside if read as (z, y, x): are x and z exchanged?"),
    ):
        if all(annotation.frame == frame and not _is_empty(annotation) for annotation in annotations):
            moved = [annotation.reordered(order, signs) for annotation in annotations]
            boxes_vox = boxes_of(moved, image.source_grid, image.tilted_grid)
            if _are_inside(moved, boxes_vox, image.source_grid).all():
                return message
    return "correct it: is its frame the one stated, its lowest corner first?"


def _is_empty(annotation: ObjectAnnotation) -> bool:
    if isinstance(annotation, BoxAnnotation):
        return not all(low < high for low, high in zip(annotation.low, annotation.high, strict=True))
    return isinstance(annotation, SphereAnnotation) and annotation.diameter_mm <= 0


def _clipped(boxes_vox: np.ndarray, grid: Grid) -> np.ndarray:
    edges = np.array([*grid.shape, *grid.shape], dtype=np.float64)
    result: np.ndarray = np.clip(boxes_vox, 0, edges)
    return result


def marks_in_pixels(case: RawCase) -> list[ObjectAnnotation]:
    """Return the marks that are written in pixels of the file's slices, which go where these are moved."""
    return [one for one in dict.fromkeys((*case.annotations, *case.ignore)) if one.frame != "lps_mm"]


def marks_sha256(case: RawCase) -> str:
    """Compute the hash by which `prepare` knows whether the marks of a finished case changed."""
    return hashlib.sha256(repr((case.annotations, case.ignore, case.patient)).encode()).hexdigest()
