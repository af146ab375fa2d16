"""From label maps to objects: instance ids, classes, boxes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.base import ANATOMY, IGNORE, ObjectRule
from medpretrain3d.store.case import Instance
from medpretrain3d.store.hidden_objects import hides_an_end

TOO_SMALL = -3
"""In the place of a class: a part of fewer than `min_voxels`, which is background."""


def find_objects(
    labels: np.ndarray, class_of_value: Mapping[int, int] | None, rule: ObjectRule, min_voxels: int = 1
) -> tuple[np.ndarray, list[Instance]]:
    """Split a label map (D, H, W) into objects.

    Args:
        labels: label values or instance ids, 0 for background.
        class_of_value: class of every other value, `ANATOMY` for one that is no object, or `IGNORE`; None is an
            instance map of class 0.
        rule: `components` (26-connected), `labels` or `instances`.
        min_voxels: smaller objects are noise of the annotation and become background.

    Returns:
        The instance map (D, H, W) uint16 with ids from 1, and its objects in the order of their ids, among them ignore
        regions and what is too small.

    Raises:
        UserError: a value without a class, an instance without a voxel, or more objects than ids.
    """
    values = {int(value) for value in np.unique(labels)} - {0}
    if class_of_value is None:
        class_of_value, rule = dict.fromkeys(values, 0), "instances"
    unknown = sorted(values - set(class_of_value))
    if unknown:
        known = _some(sorted(class_of_value)) or "none"
        raise UserError(
            f"label values {_some(unknown)} stand for no class; known are {known}; name every value, or say "
            "--objects instances if each value is an object of its own"
        )
    anatomy = [value for value in values if class_of_value[value] == ANATOMY]
    if anatomy:
        labels = np.where(np.isin(labels, anatomy), 0, labels)
    missing = sorted(set(class_of_value) - values) if rule == "instances" else []
    if missing:
        raise UserError(f"instances {_some(missing)} of the table have no voxel in the mask; correct either")
    instances = np.zeros(labels.shape, dtype=np.uint16)
    objects: list[Instance] = []
    number = 0
    for value, region, part in sorted(_parts(labels, rule), key=lambda found: found[0]):
        num_voxels = int(np.count_nonzero(part))
        box = (*(axis.start for axis in region), *(axis.stop for axis in region))
        if num_voxels < min_voxels:
            objects.append(Instance(0, TOO_SMALL, box, num_voxels))
            continue
        if class_of_value[value] == IGNORE:
            objects.append(Instance(0, IGNORE, box, num_voxels))
            continue
        if number == np.iinfo(np.uint16).max:
            raise UserError(f"more than {number} objects; raise --min-voxels or use --objects labels")
        number += 1
        instances[region][part] = number
        objects.append(Instance(number, class_of_value[value], box, num_voxels))
    return instances, objects


@dataclass(frozen=True)
class JoinedObjects:
    """Objects of several label maps in one, where a voxel of several objects is the smallest one's."""

    instances: np.ndarray
    """(D, H, W) uint16 ids from 1."""
    objects: list[Instance]
    """Their boxes and numbers of voxels are their own."""
    num_overlapping: int = 0
    """Objects that gave voxels to smaller ones."""
    partly_hidden: tuple[int, ...] = ()
    """Ids of those of which `instances` does not show the ends."""


def join_layers(layers: Sequence[tuple[np.ndarray, list[Instance]]]) -> JoinedObjects:
    """Join what was found in several label maps of one scan, whose objects may overlap.

    Args:
        layers: instance map and objects of each, as `find_objects` gives them.

    Raises:
        UserError: more objects than ids.
    """
    if len(layers) == 1:
        return JoinedObjects(*layers[0])
    objects: list[Instance] = []
    drawn: list[tuple[int, int, np.ndarray, int]] = []
    number = 0
    for instances, found in layers:
        for one in found:
            if not one.id:
                objects.append(one)
                continue
            number += 1
            objects.append(replace(one, id=number))
            drawn.append((one.num_voxels or 0, number, instances, one.id))
    joined = np.zeros(layers[0][0].shape, dtype=np.uint16)
    if number > np.iinfo(np.uint16).max:
        raise UserError(f"{number} objects; raise --min-voxels or use --objects labels")
    givers: set[int] = set()
    for _, its_number, instances, its_id in sorted(drawn, key=lambda one: (-one[0], one[1])):
        mask = instances == its_id
        givers.update(np.unique(joined[mask]).tolist())
        joined[mask] = its_number
    hidden = []
    for one, (_, its_number, instances, its_id) in zip((one for one in objects if one.id), drawn, strict=True):
        d, h, w = (slice(int(low), int(high)) for low, high in zip(one.box_vox[:3], one.box_vox[3:], strict=True))
        if its_number in givers and hides_an_end(joined[d, h, w] == its_number, instances[d, h, w] == its_id):
            hidden.append(its_number)
    return JoinedObjects(joined, objects, len(givers - {0}), tuple(hidden))


def _parts(labels: np.ndarray, rule: ObjectRule) -> Iterator[tuple[int, tuple[slice, ...], np.ndarray]]:
    """Return value, hull and mask inside the hull of every part of a label map."""
    from scipy.ndimage import find_objects as hulls

    numbered = labels.astype(np.int32)
    if rule == "components":
        import cc3d

        numbered = cc3d.connected_components(labels, connectivity=26).astype(np.int32)  # never joins two values
    for number, region in enumerate(hulls(numbered), start=1):
        if region is not None:
            part = numbered[region] == number
            yield int(labels[region][part][0]), region, part


def _some(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:5])) + (f" and {len(values) - 5} more" if len(values) > 5 else "")
