"""The overlap of everything found with everything there in one scan, from masks or from boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.cases import PredictedCase, TargetCase
from medpretrain3d.evaluation.data_set import count_target_points
from medpretrain3d.evaluation.matching import intersection_over_union
from medpretrain3d.evaluation.scan_frame import in_scan_frames
from medpretrain3d.store.points import refuse_points


@dataclass(frozen=True)
class ScanOverlap:
    """One scan: `scores` (N,) in [0, 1] of what was found, and its `iou` (N, G) with the G objects."""

    case: str
    scores: np.ndarray
    iou: np.ndarray
    patient: str | None = None
    """As in `TargetCase`; masks do not say it."""

    @property
    def num_targets(self) -> int:
        """Objects in the scan."""
        result: int = self.iou.shape[1]
        return result


def of_boxes(
    predictions: Sequence[PredictedCase], targets: Sequence[TargetCase], classes: Sequence[str]
) -> list[ScanOverlap]:
    """Return overlap of boxes, in each scan's own frame (`in_scan_frames`).

    Raises:
        UserError: more than one class: the protocols of masks know lesions only; boxes that are not of one scan; or
            points.
    """
    if len(classes) != 1:
        raise UserError(f"{len(classes)} classes, {list(classes)}; this protocol knows one kind of lesion: give one")
    refuse_points(*count_target_points(targets), "an overlap", "score by distance: evaluate --protocol centre")
    framed = in_scan_frames(predictions, targets)
    return [
        ScanOverlap(found.case, found.scores, intersection_over_union(found.boxes, wanted.boxes), wanted.patient)
        for found, wanted in zip(framed.predictions, framed.targets, strict=True)
    ]


def of_instances(case: str, found: np.ndarray, scores: dict[int, float], wanted: np.ndarray) -> ScanOverlap:
    """Return overlap of the instances of two label maps (D, H, W), 0 for background.

    Args:
        case: name of the scan.
        found: instance map of what was found.
        scores: score of each of its values.
        wanted: instance map of the objects.

    Raises:
        UserError: the maps differ in shape, a score is missing or outside [0, 1], or one has no instance.
    """
    check_shapes(case, found, wanted)
    values = np.unique(found[found != 0])
    unknown = [int(value) for value in values if int(value) not in scores]
    if unknown:
        raise UserError(f"case '{case}': instance {unknown[0]} of the mask has no score; give every instance one")
    without = sorted(set(scores) - {int(value) for value in values})
    if without:
        raise UserError(f"case '{case}': score of instance {without[0]}, which the mask does not hold; remove the row")
    wrong = [value for value in values if not 0 <= scores[int(value)] <= 1]
    if wrong:
        raise UserError(f"case '{case}': score of instance {wrong[0]} is {scores[int(wrong[0])]}, must be in [0, 1]")
    return ScanOverlap(case, np.array([scores[int(value)] for value in values], dtype=float), mask_iou(found, wanted))


def of_detection_map(case: str, found: np.ndarray, wanted: np.ndarray) -> ScanOverlap:
    """Return overlap of the 26-connected parts of a detection map with those of a lesion mask (D, H, W).

    Each part of the map is a finding and its highest value the score, as in PI-CAI.

    Args:
        case: name of the scan.
        found: confidence in [0, 1] inside findings, 0 elsewhere.
        wanted: not 0 inside lesions.

    Raises:
        UserError: the shapes differ, a value outside [0, 1], or more values than parts: a softmax map, not a detection
            map.
    """
    import cc3d

    check_shapes(case, found, wanted)
    if not ((found >= 0) & (found <= 1)).all():
        raise UserError(f"case '{case}': detection map holds values outside [0, 1]; give confidences")
    parts = cc3d.connected_components(found > 0, connectivity=26)
    num_parts, num_values = int(parts.max()), len(np.unique(found[found > 0]))
    if num_parts < num_values:
        raise UserError(
            f"case '{case}': detection map has {num_values} values in {num_parts} connected parts; give one confidence "
            "per finding instead of a softmax map"
        )
    scores = np.zeros(num_parts)
    np.maximum.at(scores, parts[found > 0] - 1, found[found > 0])
    return ScanOverlap(case, scores, mask_iou(parts, cc3d.connected_components(wanted != 0, connectivity=26)))


def mask_iou(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return intersection over union of every pair of instances, in the order of their values: (N, G)."""
    found_values, found_index = np.unique(found, return_inverse=True)
    wanted_values, wanted_index = np.unique(wanted, return_inverse=True)
    pairs = np.bincount(
        found_index.ravel() * len(wanted_values) + wanted_index.ravel(),
        minlength=len(found_values) * len(wanted_values),
    ).reshape(len(found_values), len(wanted_values))
    union = pairs.sum(axis=1)[:, None] + pairs.sum(axis=0)[None] - pairs
    result: np.ndarray = (pairs / union)[np.ix_(found_values != 0, wanted_values != 0)]
    return result


def check_shapes(case: str, found: np.ndarray, wanted: np.ndarray) -> None:
    """Raise UserError where two masks of a case differ in shape: voxels of different places would be paired."""
    if found.shape != wanted.shape:
        raise UserError(
            f"case '{case}': mask of what was found has shape {found.shape}, mask of the objects {wanted.shape}; "
            "both must lie on one grid"
        )
