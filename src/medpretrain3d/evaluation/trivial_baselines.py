"""What a detector has to beat: boxes that know the training boxes and nothing of the scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.bootstrap import Resampling
from medpretrain3d.evaluation.cases import PredictedCase, TargetCase
from medpretrain3d.evaluation.detection import MAP_IOUS, Compat, evaluate
from medpretrain3d.evaluation.matching import MAX_DETECTIONS, intersection_over_union
from medpretrain3d.evaluation.named_metrics import METRICS, without_each
from medpretrain3d.store.grid import Grid

MAX_CANDIDATES = 500
"""Training boxes of a class that are tried as boxes of the prior; of more, every n-th."""
KEPT = tuple(one.key for one in METRICS.values() if one.key is not None)
"""Numbers of `evaluate` that are given of a baseline: all that a study may be judged by."""


def trivial_baselines(
    train: Sequence[TargetCase],
    test: Sequence[TargetCase],
    classes: Sequence[str],
    resampling: Resampling,
    compat: Compat = "none",
) -> dict[str, dict[str, Any]]:
    """Return numbers and their `intervals` of `position prior` and `random boxes` on the test scans, see `scored`.

    Raises:
        UserError: the training scans hold no object.
    """
    return out_of_fold_baselines([(train, test)], classes, resampling, compat)


def out_of_fold_baselines(
    folds: Sequence[tuple[Sequence[TargetCase], Sequence[TargetCase]]],
    classes: Sequence[str],
    resampling: Resampling,
    compat: Compat = "none",
) -> dict[str, dict[str, Any]]:
    """Return the same of several folds pooled: in each the boxes know what its own training scans hold.

    Args:
        folds: training and test scans of each.
        classes: name of each label.
        resampling: of the intervals.
        compat: the program whose rules are followed, see `evaluate`.

    Raises:
        UserError: the training scans of a fold hold no object.
    """
    wanted = [case for _, test in folds for case in test]
    result = {}
    for name, make in (("position prior", position_prior), ("random boxes", random_boxes)):
        predictions = [one for train, test in folds for one in make(train, test)]
        result[name] = scored(predictions, wanted, classes, resampling, compat)
    return result


def scored(
    predictions: Sequence[PredictedCase],
    test: Sequence[TargetCase],
    classes: Sequence[str],
    resampling: Resampling,
    compat: Compat = "none",
) -> dict[str, Any]:
    """Return the numbers of `KEPT`, and by their names those metrics that `evaluate` has no key of, with `intervals`.

    Raises:
        UserError: as `evaluate`.
    """
    settings = resampling.num_bootstrap, resampling.seed, resampling.confidence
    numbers = evaluate(predictions, test, classes, *settings, compat=compat)
    values = {key: numbers[key] for key in KEPT}
    intervals = {key: numbers["intervals"][key] for key in KEPT if numbers["intervals"]}
    others = without_each([one for one in METRICS.values() if one.key is None], predictions, test, classes)
    values |= {name: one.value for name, one in others.items()}
    if resampling.num_bootstrap:
        intervals |= {name: list(one.interval(resampling.confidence)) for name, one in others.items()}
    return {**values, "intervals": intervals}


def position_prior(train: Sequence[TargetCase], test: Sequence[TargetCase]) -> list[PredictedCase]:
    """Return the same boxes for every scan: those of the training scans that hit most objects of the others.

    Places are shares of the scan's extent along its anatomical axes, where all scans have a grid, and coordinates of
    the files' frame otherwise. Of each class up to 100 boxes are chosen greedily, each by the objects that it adds, a
    hit counting by the share of the IoU thresholds of the mAP that it passes; its score is what it adds per scan.

    Raises:
        UserError: the training scans hold no object.
    """
    boxes, labels = _placed(train, test)
    chosen, scores, classes = [], [], []
    for label in np.unique(labels):
        mine = boxes[labels == label]
        step = -(-len(mine) // MAX_CANDIDATES)
        candidates = mine[::step]
        overlap = intersection_over_union(candidates, mine)  # (C, N)
        worth = (overlap[:, :, None] >= np.array(MAP_IOUS)).mean(axis=2)
        held = np.zeros(len(mine))
        for _ in range(min(MAX_DETECTIONS, len(candidates))):
            gain = np.maximum(worth - held, 0).sum(axis=1)
            best = int(gain.argmax())
            if gain[best] <= 0:
                break
            chosen.append(candidates[best])
            scores.append(min(1.0, gain[best] / len(train)))
            classes.append(int(label))
            held = np.maximum(held, worth[best])
    where = np.array(chosen)
    return [_at(case, where, np.array(scores), np.array(classes), _has_grids(train, test)) for case in test]


def random_boxes(train: Sequence[TargetCase], test: Sequence[TargetCase], seed: int = 0) -> list[PredictedCase]:
    """Return 100 boxes a scan with extents and classes of training boxes, anywhere, scored at random.

    Anywhere is in the scan, where all scans have a grid, and within the hull of all training boxes otherwise.

    Raises:
        UserError: the training scans hold no object.
    """
    boxes, labels = _placed(train, test)
    has_grids = _has_grids(train, test)
    low, high = (np.zeros(3), np.ones(3)) if has_grids else (boxes[:, :3].min(axis=0), boxes[:, 3:].max(axis=0))
    generator = np.random.default_rng(seed)
    result = []
    for case in test:
        drawn = generator.integers(0, len(boxes), MAX_DETECTIONS)
        extent = boxes[drawn, 3:] - boxes[drawn, :3]
        corner = low + generator.random((MAX_DETECTIONS, 3)) * np.maximum(high - low - extent, 0)
        where = np.concatenate([corner, corner + extent], axis=1)
        result.append(_at(case, where, generator.random(MAX_DETECTIONS), labels[drawn], has_grids))
    return result


def _has_grids(train: Sequence[TargetCase], test: Sequence[TargetCase]) -> bool:
    return all(case.grid is not None and case.boxes_vox is not None for case in (*train, *test))


def _placed(train: Sequence[TargetCase], test: Sequence[TargetCase]) -> tuple[np.ndarray, np.ndarray]:
    """Return all training boxes (N, 6) at their places, and labels (N,)."""
    labels = np.concatenate([case.labels for case in train]) if train else np.zeros(0, int)
    if not len(labels):
        raise UserError("the training targets hold no box; give those of the split that the detector was trained on")
    if not _has_grids(train, test):
        return np.concatenate([case.boxes for case in train]), labels
    placed = []
    for case in train:
        assert case.grid is not None
        assert case.boxes_vox is not None
        canonical = case.grid.canonical()[0]
        placed.append(case.grid.map_boxes(case.boxes_vox, canonical) / _twice(canonical))
    return np.concatenate(placed), labels


def _at(case: TargetCase, where: np.ndarray, scores: np.ndarray, labels: np.ndarray, has_grids: bool) -> PredictedCase:
    if not has_grids or case.grid is None:
        return PredictedCase(case.case, where, scores, labels)
    canonical = case.grid.canonical()[0]
    boxes_vox = canonical.map_boxes(where * _twice(canonical), case.grid)
    return PredictedCase(case.case, case.grid.boxes_to_lps_mm(boxes_vox), scores, labels, case.grid, boxes_vox)


def _twice(grid: Grid) -> np.ndarray:
    """Return the extent of a grid in voxels for both corners, (6,)."""
    return np.array([*grid.shape, *grid.shape], dtype=float)
