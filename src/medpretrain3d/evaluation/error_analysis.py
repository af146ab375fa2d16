"""What goes wrong: every false detection and every object not found is one kind of error (TIDE; Bolya et al., 2020)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medpretrain3d.evaluation.average_precision import RecallType, average_precision
from medpretrain3d.evaluation.data_set import MatchedScans
from medpretrain3d.evaluation.matching import Matches, intersection_over_union

FOREGROUND_IOU = 0.5
"""TIDE's t_f."""
BACKGROUND_IOU = 0.1
"""TIDE's t_b: what overlaps every object less was found where nothing is."""
DETECTION_ERRORS = ("classification", "localization", "both", "duplicate", "background")
ERRORS = (*DETECTION_ERRORS, "missed")


def error_analysis(
    scans: MatchedScans,
    row: int,
    foreground_iou: float = FOREGROUND_IOU,
    background_iou: float = BACKGROUND_IOU,
    recall_type: RecallType = np.float32,
) -> dict[str, Any]:
    """Return how often each kind of error occurs, and what AP gains where all of one kind are mended.

    A detection that is no hit is the first of these that holds (Bolya et al., 2020, section 2.2): badly placed
    (`localization`), where its best IoU with an object of its class lies between the thresholds; of the wrong class
    (`classification`), where it meets an object of another; a `duplicate`, where it meets one of its class, which a
    better detection holds; `background`, where it overlaps none by `background_iou`; else badly placed and of the wrong
    class (`both`). An object without a hit is `missed` unless one of the first two is about it. Detections in an ignore
    region that hit nothing are left out.

    To mend the first two, the best such detection of each object without a hit becomes its hit, and the others go; to
    mend the next three they go; missed objects go. Gains do not add up.

    Args:
        scans: matched, with the objects that were hit.
        row: the threshold of theirs that is `foreground_iou`.
        foreground_iou: least IoU of a hit.
        background_iou: see above.
        recall_type: of the AP.

    Returns:
        `foreground_iou`, `background_iou`, `AP` (mean over classes with objects); by kind of error `num` and `gain` of
        AP; and the same of all `false_positives` and all `false_negatives`. AP and gains are nan without objects.
    """
    plain = [one.rows([row]) for one in scans.classes]
    errors = list(_errors(scans, plain, foreground_iou, background_iou))
    unfound = _unfound(scans, plain)
    about = {one.object for one in errors if one.object is not None}
    missed = [one for one in unfound if one not in about]
    is_there = [bool(one.num_targets.any()) for one in plain]
    before = _mean_ap(plain, is_there, recall_type)

    def entry(num: int, mended: Sequence[Matches]) -> dict[str, Any]:
        return {"num": num, "gain": _mean_ap(mended, is_there, recall_type) - before}

    def gone(some: Sequence[_Error], objects: Sequence[_Object] = ()) -> list[Matches]:
        return [_without(one, label, some, objects) for label, one in enumerate(plain)]

    result: dict[str, Any] = {"foreground_iou": foreground_iou, "background_iou": background_iou, "AP": before}
    for kind in DETECTION_ERRORS:
        members = [one for one in errors if one.kind == kind]
        mended = _with_hits(gone(members), members, set(unfound))
        result[kind] = entry(len(members), mended)
    result["missed"] = entry(len(missed), gone((), missed))
    result["false_positives"] = entry(len(errors), gone(errors))
    result["false_negatives"] = entry(len(unfound), gone((), unfound))
    return result


_Object = tuple[int, int, int]
"""Class, scan, and place among the objects of the scan."""


@dataclass(frozen=True)
class _Error:
    """A detection that is no hit: its class, its place among the matches of that class, and the object it is about."""

    kind: str
    label: int
    place: int
    score: float
    object: _Object | None


def _errors(
    scans: MatchedScans, classes: Sequence[Matches], foreground_iou: float, background_iou: float
) -> Iterator[_Error]:
    overlaps = [
        intersection_over_union(found.boxes, wanted.boxes)
        for found, wanted in zip(scans.predictions, scans.targets, strict=True)
    ]
    for label, matches in enumerate(classes):
        assert matches.detection is not None
        is_false = ~matches.is_hit[0] & matches.counts_always
        for scan, (wanted, mine) in enumerate(zip(scans.targets, matches.places_by_scan(), strict=True)):
            places = mine[is_false[mine]]
            iou, is_own = overlaps[scan][matches.detection[places]], wanted.labels == label  # (E, G), (G,)
            own, other = np.where(is_own, iou, 0.0), np.where(is_own, 0.0, iou)
            kinds = _kinds(own.max(axis=1, initial=0.0), other.max(axis=1, initial=0.0), foreground_iou, background_iou)
            for kind, place, of_own, of_other in zip(kinds.tolist(), places.tolist(), own, other, strict=True):
                about = None
                if kind in ("localization", "classification"):
                    target = int((of_own if kind == "localization" else of_other).argmax())
                    about = (int(wanted.labels[target]), scan, target)
                yield _Error(kind, label, place, float(matches.scores[place]), about)


def _kinds(best_own: np.ndarray, best_other: np.ndarray, foreground_iou: float, background_iou: float) -> np.ndarray:
    """Return the kind of detections without a hit (E,), by their best IoU with objects of their class and of others."""
    conditions = {
        "localization": (best_own >= background_iou) & (best_own < foreground_iou),
        "classification": best_other >= foreground_iou,
        "duplicate": best_own >= foreground_iou,
        "background": np.maximum(best_own, best_other) < background_iou,
    }
    return np.select([*conditions.values()], [*conditions], "both")  # the first that holds


def _unfound(scans: MatchedScans, classes: Sequence[Matches]) -> list[_Object]:
    """Return the objects that no detection hits."""
    result = []
    for label, matches in enumerate(classes):
        assert matches.target is not None
        held = set(zip(matches.scan.tolist(), matches.target[0].tolist(), strict=True))
        for scan, wanted in enumerate(scans.targets):
            places = np.nonzero(wanted.labels == label)[0].tolist()
            result += [(label, scan, place) for place in places if (scan, place) not in held]
    return result


def _without(matches: Matches, label: int, errors: Sequence[_Error], objects: Sequence[_Object]) -> Matches:
    """Return the matches of a class without some detections and some objects without a hit."""
    keep = np.ones(len(matches.scores), dtype=bool)
    keep[[one.place for one in errors if one.label == label]] = False
    num_targets = matches.num_targets.copy()
    np.subtract.at(num_targets, [scan for of_class, scan, _ in objects if of_class == label], 1)
    return replace(matches[np.nonzero(keep)[0]], num_targets=num_targets)


def _with_hits(classes: Sequence[Matches], errors: Sequence[_Error], unfound: set[_Object]) -> list[Matches]:
    """Return the matches with a hit for each object without one: the best of the errors that are about it."""
    best: dict[_Object, float] = {}
    for one in errors:
        if one.object in unfound:
            best[one.object] = max(one.score, best.get(one.object, 0.0))
    return [
        _with(matches, {wanted: score for wanted, score in best.items() if wanted[0] == label})
        for label, matches in enumerate(classes)
    ]


def _with(matches: Matches, hits: dict[_Object, float]) -> Matches:
    scores, scan = np.array([*hits.values()]), np.array([scan for _, scan, _ in hits], dtype=np.int64)
    return Matches(
        np.append(matches.scores, scores),
        np.append(matches.scan, scan),
        np.append(matches.is_hit, np.ones((1, len(hits)), dtype=bool), axis=1),
        matches.num_targets,
        np.append(~matches.counts_always, np.zeros(len(hits), dtype=bool)),
    )


def _mean_ap(classes: Sequence[Matches], is_there: Sequence[bool], recall_type: RecallType) -> float:
    """Return the mean AP over the classes with objects; 0 for one that has lost them all, whose AP was 0 before."""
    weights = np.ones((1, len(classes[0].num_targets)))
    chosen = [one for one, there in zip(classes, is_there, strict=True) if there]
    values = [average_precision(one, weights, recall_type)[0, 0] for one in chosen]
    return float(np.mean(np.nan_to_num(values))) if values else float("nan")
