"""Scores by the size of the objects: what is overlooked is usually small."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from medpretrain3d.boxes import box_size
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.average_precision import RecallType, average_precision
from medpretrain3d.evaluation.average_recall import recall
from medpretrain3d.evaluation.bootstrap import Resampling
from medpretrain3d.evaluation.data_set import MatchedScans
from medpretrain3d.evaluation.matching import Matches, pool_classes

DIAMETERS_MM = (6.0, 10.0, 20.0, 30.0)
"""Follow-up of nodules begins at 6 mm (Fleischner), a measurable lesion has 10 mm (RECIST 1.1), a lung tumour is T1b
above 10 mm and T1c above 20 mm, and above 30 mm it is called a mass."""


def diameter(boxes: np.ndarray) -> np.ndarray:
    """Longest edge of each box (N, 6): (N,)."""
    result: np.ndarray = box_size(boxes).max(axis=1, initial=0.0)
    return result


def size_strata(
    scans: MatchedScans,
    resampling: Resampling,
    rows: dict[float, int],
    edges_mm: Sequence[float] = DIAMETERS_MM,
    recall_type: RecallType = np.float32,
) -> list[dict[str, Any]]:
    """Return AP and recall in bins of the diameter, the longest edge of the box.

    Matching is done once, on all objects. A hit counts in the stratum of the object it hits, a false positive in the
    stratum of its own diameter, so that every object and every detection counts in exactly one stratum.

    Args:
        scans: matched, boxes in mm.
        resampling: of the intervals.
        rows: the threshold's row by the IoU it is reported as.
        edges_mm: rising; n edges make n + 1 strata, each with its lower edge and without its upper one.
        recall_type: of the AP.

    Returns:
        Per stratum `from_mm`, `to_mm` (None for no limit), `num_targets`, and per IoU `AP_IoU_x` (mean over the classes
        with objects in the stratum) and `recall_IoU_x` (all classes pooled), nan without objects; `intervals`.

    Raises:
        UserError: edges that do not rise above 0.
    """
    edges = [0.0, *edges_mm]
    if any(not low < high < math.inf for low, high in itertools.pairwise(edges)):
        raise UserError(f"size bins {[f'{edge:g}' for edge in edges_mm]} mm: must rise, above 0; e.g. 6 10 20 30")
    result = []
    for stratum, (low, high) in enumerate(itertools.zip_longest(edges, edges[1:])):
        members = {
            iou: [_members(scans, one, label, row, edges, stratum) for label, one in enumerate(scans.classes)]
            for iou, row in rows.items()
        }

        def metrics(weights: np.ndarray, members: dict[float, list[Matches]] = members) -> dict[str, np.ndarray]:
            found = {}
            for iou, classes in members.items():
                present = [one for one in classes if one.num_targets.any()]
                ap = [average_precision(one, weights, recall_type)[:, 0] for one in present]
                found[f"AP_IoU_{iou:.2f}"] = _mean(ap, weights)
                found[f"recall_IoU_{iou:.2f}"] = recall(pool_classes(classes), weights)[:, 0]
            return found

        per_scan = np.sum([one.num_targets for one in next(iter(members.values()))], axis=0)
        keys = [f"{what}_IoU_{iou:.2f}" for what in ("AP", "recall") for iou in rows]
        num_behind = dict.fromkeys(keys, int(scans.patients.num_with(per_scan > 0)))
        values, intervals = resampling.estimate(metrics, scans.patients, num_behind)
        num_targets = int(per_scan.sum())
        result.append({"from_mm": low, "to_mm": high, "num_targets": num_targets, **values, "intervals": intervals})
    return result


def _members(
    scans: MatchedScans, matches: Matches, label: int, row: int, edges: Sequence[float], stratum: int
) -> Matches:
    """Return the detections and objects of one class that belong to a stratum at one threshold."""
    assert matches.detection is not None
    assert matches.target is not None
    size = _diameters([found.boxes for found in scans.predictions], matches.scan, matches.detection)
    hits = np.nonzero(matches.is_hit[row])[0]
    size[hits] = _diameters([one.boxes for one in scans.targets], matches.scan[hits], matches.target[row, hits])
    keep = np.nonzero(_bin(size, edges) == stratum)[0]
    objects = [wanted.boxes[wanted.labels == label] for wanted in scans.targets]
    num_targets = np.array([(_bin(diameter(boxes), edges) == stratum).sum() for boxes in objects])
    ignorable = None if matches.is_ignorable is None else matches.is_ignorable[keep]
    return Matches(matches.scores[keep], matches.scan[keep], matches.is_hit[[row]][:, keep], num_targets, ignorable)


def _diameters(boxes: Sequence[np.ndarray], scan: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return the diameter of the box at a place of a scan, for scans and places (N,): (N,)."""
    first = np.cumsum([0, *map(len, boxes)])  # of each scan among the boxes of all
    result: np.ndarray = diameter(np.concatenate(boxes))[first[scan] + place]
    return result


def _bin(size: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    return np.searchsorted(edges, size, side="right") - 1


def _mean(values: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Return mean over the classes that have objects in a replicate, (R,)."""
    if not values:
        return np.full(len(weights), np.nan)
    stacked = np.stack(values)
    number = (~np.isnan(stacked)).sum(axis=0)
    result: np.ndarray = np.nansum(stacked, axis=0) / np.where(number > 0, number, np.nan)
    return result
