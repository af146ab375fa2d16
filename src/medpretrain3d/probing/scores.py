"""Area under the ROC curve over the points of all scans, with an interval over patients."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from medpretrain3d.statistics import MIN_PATIENTS, pseudo_values
from medpretrain3d.statistics.student import critical_value


@dataclass(frozen=True)
class Auc:
    """An area, or a difference of two, with its 95 % interval."""

    value: float
    interval: tuple[float, float] | None
    """None where it rests on fewer than `MIN_PATIENTS` patients."""
    num_patients: int
    """That it rests on: those with points of objects or those with points of background, whichever are fewer."""

    def __str__(self) -> str:
        low_high = "" if self.interval is None else f" [{self.interval[0]:.3f}, {self.interval[1]:.3f}]"
        return f"{self.value:.3f}{low_high}"


def rank_auc(scores: np.ndarray, is_object: np.ndarray) -> float:
    """Return the probability that an object's score exceeds that of background, ties half; NaN without both."""
    num_objects = int(is_object.sum())
    num_others = is_object.size - num_objects
    if not num_objects or not num_others:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place[is_object]].sum()
    return float((ranks - num_objects * (num_objects + 1) / 2) / (num_objects * num_others))


def auc_of(scores: np.ndarray, is_object: np.ndarray, patient: np.ndarray) -> Auc:
    """Return the area of all points, its interval from a jackknife over patients.

    Args:
        scores: (N,) of points.
        is_object: (N,) bool.
        patient: (N,) number of each point's patient.
    """
    area = _with_interval(*_jackknife(scores, is_object, patient), _num_patients_behind(is_object, patient))
    if area.interval is None:
        return area
    low, high = area.interval
    return replace(area, interval=(max(low, 0.0), min(high, 1.0)))  # where an area can be


def difference_of(scores: np.ndarray, others: np.ndarray, is_object: np.ndarray, patient: np.ndarray) -> Auc:
    """Return how much larger the area of scores is than that of others at the same points, paired by patient."""
    (first, without), (second, without_second) = (_jackknife(one, is_object, patient) for one in (scores, others))
    return _with_interval(first - second, without - without_second, _num_patients_behind(is_object, patient))


def _num_patients_behind(is_object: np.ndarray, patient: np.ndarray) -> int:
    return min(len(np.unique(patient[is_object])), len(np.unique(patient[~is_object])))


def _jackknife(scores: np.ndarray, is_object: np.ndarray, patient: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the area of all points, and that without each patient (K,): NaN where no object or background is left."""
    _, number = np.unique(patient, return_inverse=True)
    num_patients = int(number.max()) + 1
    objects, others = scores[is_object], scores[~is_object]
    # Counts of pairs are multiples of a half, and exact: without a patient all pairs but those of its points.
    in_order = _num_below(objects, others)
    of_patient = np.bincount(number[is_object], in_order, num_patients)
    of_patient += np.bincount(number[~is_object], len(objects) - _num_below(others, objects), num_patients)
    ends = np.cumsum(np.bincount(number))[:-1]
    order = np.argsort(number, kind="stable")
    for index, rows in enumerate(np.split(order, ends)):  # its own pairs were counted from both sides
        of_patient[index] -= _num_below(scores[rows][is_object[rows]], scores[rows][~is_object[rows]]).sum()
    num_objects = len(objects) - np.bincount(number[is_object], minlength=num_patients)
    num_others = len(others) - np.bincount(number[~is_object], minlength=num_patients)
    num_pairs = np.where((num_objects > 0) & (num_others > 0), num_objects * num_others, np.nan)
    return rank_auc(scores, is_object), (in_order.sum() - of_patient) / num_pairs


def _num_below(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return how many of others (M,) each score (N,) exceeds, ties half: (N,)."""
    others = np.sort(others)
    return (np.searchsorted(others, scores) + np.searchsorted(others, scores, side="right")) / 2


def _with_interval(value: float, without: np.ndarray, num_patients: int) -> Auc:
    if num_patients < MIN_PATIENTS or not np.isfinite(without).all():
        return Auc(value, None, num_patients)
    values = pseudo_values(value, without)
    half = critical_value(0.05, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Auc(value, (value - float(half), value + float(half)), num_patients)
