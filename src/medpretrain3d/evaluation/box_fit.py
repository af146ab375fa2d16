"""How well the boxes of hits fit, axis by axis: which side of an object is hard to find."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from medpretrain3d.boxes import paired_iou
from medpretrain3d.evaluation.data_set import MatchedScans
from medpretrain3d.evaluation.matching import Matches


def box_fit(scans: MatchedScans, row: int, iou: float) -> dict[str, Any]:
    """Return medians over the hits of each class, of IoU and of what its three axes are worth.

    A box that is right along two axes and off along the third has the IoU of the third as its own; of a box that is off
    along all, the axis with the smallest overlap is where AP at high IoU is lost.

    Args:
        scans: matched, with the objects that were hit.
        row: the threshold of theirs at which a detection is a hit.
        iou: that threshold.

    Returns:
        `iou`, and by class `num_hits`, `median_iou`, `median_axis_iou` (3; intersection over union of the intervals of
        both boxes along an axis) and `median_face_error` (3; distance of faces along an axis, the mean of both, in the
        unit of the boxes). Axes are those of the boxes, x, y and z. Medians without a hit are nan.
    """
    return {
        "iou": iou,
        "classes": dict(zip(scans.names, (_of_class(scans, one, row) for one in scans.classes), strict=True)),
    }


def _of_class(scans: MatchedScans, matches: Matches, row: int) -> dict[str, Any]:
    found, wanted = _hit_boxes(scans, matches, row)
    shared = np.minimum(found[:, 3:], wanted[:, 3:]) - np.maximum(
        found[:, :3], wanted[:, :3]
    )  # above 0: these are hits
    either = np.maximum(found[:, 3:], wanted[:, 3:]) - np.minimum(found[:, :3], wanted[:, :3])
    iou = paired_iou(torch.from_numpy(found), torch.from_numpy(wanted)).numpy()
    return {
        "num_hits": len(found),
        "median_iou": _medians(iou[:, None])[0],
        "median_axis_iou": _medians(shared / either),
        "median_face_error": _medians(np.abs(found - wanted).reshape(-1, 2, 3).mean(axis=1)),
    }


def _hit_boxes(scans: MatchedScans, matches: Matches, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes of hits and of their objects, both (H, 6)."""
    assert matches.detection is not None
    assert matches.target is not None
    places = np.nonzero(matches.is_hit[row])[0]
    pairs = zip(matches.scan[places], matches.detection[places], matches.target[row, places], strict=True)
    both = [(scans.predictions[scan].boxes[one], scans.targets[scan].boxes[other]) for scan, one, other in pairs]
    boxes = np.array(both, dtype=float).reshape(-1, 2, 6)
    return boxes[:, 0], boxes[:, 1]


def _medians(values: np.ndarray) -> list[float]:
    """Return the median of each column."""
    if not len(values):
        return [float("nan")] * values.shape[1]
    return [float(one) for one in np.median(values, axis=0)]
