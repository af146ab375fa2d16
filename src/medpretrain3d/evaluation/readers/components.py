"""Objects of label maps as scored boxes: connected components, as published comparisons make a detector of nnU-Net."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medpretrain3d.evaluation.readers.options import ComponentScore, Objects


@dataclass(frozen=True)
class FoundObjects:
    """Boxes (N, 6) half-open in voxels of the map, scores (N,), labels (N,), and how many were too small."""

    boxes_vox: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    num_small: int = 0


def found_objects(
    label_map: np.ndarray,
    class_of_value: Mapping[int, int],
    objects: Objects,
    min_voxels: int,
    probabilities: np.ndarray | None = None,
    component_score: ComponentScore = "max",
) -> FoundObjects:
    """Return the objects of a label map (i, j, k).

    Args:
        label_map: whole numbers, 0 for background.
        class_of_value: class of each value; the others are no objects.
        objects: 26-connected components, or all voxels of a value.
        min_voxels: smaller objects are left out.
        probabilities: (K, i, j, k), of each value; without them every score is 1.
        component_score: of the probabilities of an object's own value at its voxels.
    """
    import cc3d
    from scipy.ndimage import find_objects as hulls

    known = np.where(np.isin(label_map, list(class_of_value)), label_map, 0).astype(np.uint16)
    numbered = cc3d.connected_components(known, connectivity=26) if objects == "components" else known
    boxes, scores, labels = [], [], []
    num_small = 0
    for number, region in enumerate(hulls(numbered.astype(np.int32)), start=1):
        if region is None:
            continue
        part = numbered[region] == number
        if np.count_nonzero(part) < min_voxels:
            num_small += 1
            continue
        value = int(known[region][part][0])
        boxes.append([*(axis.start for axis in region), *(axis.stop for axis in region)])
        labels.append(class_of_value[value])
        if probabilities is None:
            scores.append(1.0)
        else:
            inside = probabilities[value][region][part].astype(np.float64)
            scores.append(float(inside.max() if component_score == "max" else inside.mean()))
    made = np.array(boxes, dtype=np.float64).reshape(-1, 6), np.array(scores), np.array(labels, dtype=np.int64)
    return FoundObjects(*made, num_small)


def left_out_notes(num_small: int, min_voxels: int) -> list[str]:
    """Return what to say about objects that were too small."""
    return [f"{num_small} objects of fewer than {min_voxels} voxels (--min-voxels) are left out"] if num_small else []
