"""From label maps to objects: instance ids, classes, boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medpretrain3d.data.importers.base import ObjectRule
from medpretrain3d.errors import UserError


@dataclass(frozen=True)
class Instance:
    """One object: its id in the instance map, class from 0, box (6,) in voxels of the map, half-open."""

    id: int
    label: int
    box_vox: tuple[int, ...]


def find_objects(
    labels: np.ndarray, class_of_value: Mapping[int, int], rule: ObjectRule, min_voxels: int = 1
) -> tuple[np.ndarray, list[Instance]]:
    """Split a label map (D, H, W) into objects.

    Args:
        labels: label values or instance ids, 0 for background.
        class_of_value: class of every other value.
        rule: `components` (26-connected), `labels` or `instances`.
        min_voxels: smaller objects are noise of the annotation and become background.

    Returns:
        The instance map (D, H, W) uint16 with ids from 1, and its objects in the order of their ids.

    Raises:
        UserError: a value without a class, or more objects than ids.
    """
    values = np.unique(labels)
    unknown = [int(value) for value in values if value and int(value) not in class_of_value]
    if unknown:
        raise UserError(
            f"label values {unknown[:5]} are not in the table of classes {dict(class_of_value)}; correct either"
        )
    instances = np.zeros(labels.shape, dtype=np.uint16)
    objects: list[Instance] = []
    for value in (int(value) for value in values if value):
        for mask, corner in _parts(labels, value, rule):
            if int(mask.sum()) < min_voxels:
                continue
            if len(objects) == np.iinfo(np.uint16).max:
                raise UserError(
                    f"more than {len(objects)} objects in one case; raise --min-voxels or use --objects labels"
                )
            number = len(objects) + 1
            box = tuple(corner) + tuple(start + size for start, size in zip(corner, mask.shape, strict=True))
            region = tuple(slice(box[axis], box[axis + 3]) for axis in range(3))
            instances[region][mask] = number
            objects.append(Instance(number, class_of_value[value], box))
    return instances, objects


def _parts(labels: np.ndarray, value: int, rule: ObjectRule) -> list[tuple[np.ndarray, list[int]]]:
    """Each part of a value as a mask cut to its hull, with the hull's min corner."""
    from scipy.ndimage import find_objects as hulls

    whole = labels == value
    if rule == "components":
        import cc3d

        numbered = cc3d.connected_components(whole, connectivity=26)
    else:
        numbered = whole.astype(np.int32)
    parts = []
    for number, region in enumerate(hulls(numbered), start=1):
        if region is not None:
            parts.append((numbered[region] == number, [axis.start for axis in region]))
    return parts
