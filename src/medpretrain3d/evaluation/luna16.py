"""LUNA16: candidates by their distance to nodules, and the competition performance metric (Setio et al., 2017).

A candidate hits a nodule when the squared distance of its centre is below the squared radius, in world mm; a diameter
below 0 means 10 mm. Of several candidates on one nodule the best counts and the others are ignored. Candidates on an
excluded finding are neither, unless they also hit a nodule. Every scan of the list counts, also without nodules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.bootstrap import Resampling, replicates
from medpretrain3d.evaluation.candidates import Points, no_points
from medpretrain3d.evaluation.froc import (
    FALSE_POSITIVES_PER_SCAN,
    PointReading,
    froc_curve,
    froc_points,
    read_points,
)
from medpretrain3d.evaluation.matching import Matches, join_scans
from medpretrain3d.evaluation.patients import Patients

MAX_CANDIDATES = 100
"""Candidates per scan; of more, those above the score of the 101st stay."""
UNKNOWN_DIAMETER_MM = 10.0
POINT_READINGS: tuple[PointReading, ...] = ("nearest", "last_below", "first_above")


@dataclass(frozen=True)
class MatchedCandidates:
    """Candidates that have met the nodules: hits and false positives of every scan, and what happened to the rest."""

    series: Sequence[str]
    matches: Matches
    num_marks: int
    num_over_limit: int
    num_on_excluded: int
    num_double: int
    num_marks_elsewhere: int
    num_nodules_elsewhere: int
    num_excluded_elsewhere: int


def match_candidates(
    series: Sequence[str], nodules: Points, candidates: Points, excluded: Points | None = None
) -> MatchedCandidates:
    """Decide for every scan of the list what each candidate is.

    Raises:
        UserError: no nodule in any scan of the list, or candidates of other scans alone.
    """
    elsewhere = candidates.num_outside(series)
    if elsewhere and elsewhere == len(candidates.value):
        raise UserError(
            f"all {elsewhere} marks are of scans that are not in the list, the first of '{candidates.series[0]}', the "
            f"list begins with '{series[0]}'; name them by the seriesuids of the list, or give a file without marks "
            "where nothing was found in its scans"
        )
    parts, over_limit, on_excluded, double = [], 0, 0, 0
    of_scans = [points.by_series() for points in (candidates, nodules, excluded or no_points())]
    for name in series:
        all_marks, real, other = (of_scan.get(name, no_points()) for of_scan in of_scans)
        mine = _best_candidates(all_marks)
        hits = _within_radius(mine, real)  # (N, G)
        is_dropped = _within_radius(mine, other).any(axis=1) & ~hits.any(axis=1)
        is_false = ~hits.any(axis=1) & ~is_dropped
        found = hits.any(axis=0)  # (G,)
        best = np.where(hits, mine.value[:, None], -np.inf).max(axis=0, initial=-np.inf)[found]
        scores = np.concatenate([best, mine.value[is_false]])
        is_hit = np.arange(len(scores)) < len(best)
        order = np.argsort(-scores, kind="stable")
        parts.append(
            Matches(scores[order], np.zeros(len(order), dtype=int), is_hit[None, order], np.array([len(real.value)]))
        )
        over_limit += len(all_marks.value) - len(mine.value)
        on_excluded += int(is_dropped.sum())
        double += int(np.maximum(hits.sum(axis=0) - 1, 0).sum())
    matches = join_scans(parts)
    if not matches.num_targets.any():
        raise UserError(f"none of the {len(series)} scans of the list has an annotated nodule; check the seriesuids")
    return MatchedCandidates(
        series,
        matches,
        num_marks=len(candidates.value) - elsewhere,
        num_over_limit=over_limit,
        num_on_excluded=on_excluded,
        num_double=double,
        num_marks_elsewhere=elsewhere,
        num_nodules_elsewhere=nodules.num_outside(series),
        num_excluded_elsewhere=(excluded or no_points()).num_outside(series),
    )


def luna16(scans: MatchedCandidates, resampling: Resampling) -> dict[str, Any]:
    """Return sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives per scan, and their mean, the CPM.

    Returns:
        `fp_per_scan`, `sensitivity`, `cpm` by linear interpolation between the operating points, as in the public
        script, with `intervals`; `readouts`: the five ways published scripts read the curve, by name (`linear`,
        `bootstrap_mean`, `nearest`, `last_below`, `first_above`), each with `sensitivity`, `cpm` and `intervals`;
        what was counted; `per_case`. `bootstrap_mean` is there where replicates are drawn.
    """
    num_scans = len(scans.series)
    patients = Patients.one_each(num_scans)  # the list of the challenge names scans alone
    num_behind = dict.fromkeys(("sensitivity", "cpm"), scans.matches.num_patients_with_objects)
    readouts = {}
    for name in ("linear", *POINT_READINGS):

        def metrics(weights: np.ndarray, name: Any = name) -> dict[str, np.ndarray]:
            sensitivity = _sensitivity(scans.matches, weights, name)
            return {"sensitivity": sensitivity, "cpm": sensitivity.mean(axis=1)}

        values, intervals = resampling.estimate(metrics, patients, num_behind)
        readouts[name] = {**values, "intervals": intervals}
        if name == "linear" and resampling.num_bootstrap:
            resampled = replicates(metrics, num_scans, resampling.num_bootstrap, resampling.seed)
            mean = {key: np.nanmean(value, axis=0).tolist() for key, value in resampled.items()}
            readouts["bootstrap_mean"] = {**mean, "intervals": intervals}
    return {
        "fp_per_scan": list(FALSE_POSITIVES_PER_SCAN),
        **readouts["linear"],
        "readouts": readouts,
        "num_cases": num_scans,
        "num_targets": int(scans.matches.num_targets.sum()),
        "num_marks": scans.num_marks,
        "num_marks_over_limit": scans.num_over_limit,
        "num_marks_on_excluded": scans.num_on_excluded,
        "num_double_marks": scans.num_double,
        "num_marks_of_unlisted_scans": scans.num_marks_elsewhere,
        "num_nodules_of_unlisted_scans": scans.num_nodules_elsewhere,
        "num_excluded_of_unlisted_scans": scans.num_excluded_elsewhere,
        **resampling.facts(),
        "per_case": _per_case(scans),
    }


def _best_candidates(candidates: Points) -> Points:
    if len(candidates.value) <= MAX_CANDIDATES:
        return candidates
    keep = candidates.value > np.sort(candidates.value)[::-1][MAX_CANDIDATES]
    return Points(candidates.series[keep], candidates.center_lps_mm[keep], candidates.value[keep])


def _within_radius(candidates: Points, nodules: Points) -> np.ndarray:
    """Compute which candidate lies in which nodule: (N, G) bool."""
    radius_mm = np.where(nodules.value < 0, UNKNOWN_DIAMETER_MM, nodules.value) / 2
    offset_mm = candidates.center_lps_mm[:, None] - nodules.center_lps_mm[None]  # (N, G, 3)
    result: np.ndarray = (offset_mm**2).sum(axis=2) < radius_mm**2
    return result


def _sensitivity(matches: Matches, weights: np.ndarray, name: Any) -> np.ndarray:
    if name == "linear":
        return froc_curve(matches, weights)[:, 0]
    # 20 replicates at a time: LUNA16 has up to 88,800 candidates, and every candidate is a point.
    parts = [
        read_points(*froc_points(matches, weights[start : start + 20]), FALSE_POSITIVES_PER_SCAN, name)
        for start in range(0, len(weights), 20)
    ]
    return np.concatenate(parts)


def _per_case(scans: MatchedCandidates) -> list[dict[str, Any]]:
    matches, num_scans = scans.matches, len(scans.series)
    hits = np.bincount(matches.scan[matches.is_hit[0]], minlength=num_scans)
    false = np.bincount(matches.scan[~matches.is_hit[0]], minlength=num_scans)
    return [
        {"case": name, "num_targets": int(wanted), "num_hits": int(found), "num_false_positives": int(wrong)}
        for name, wanted, found, wrong in zip(scans.series, matches.num_targets, hits, false, strict=True)
    ]
