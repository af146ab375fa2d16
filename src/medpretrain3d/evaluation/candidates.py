"""LUNA16's files: nodules and candidates as points in LPS mm, one row each, and the list of scans that count.

    annotations, excluded  seriesuid,coordX,coordY,coordZ,diameter_mm
    predictions            seriesuid,coordX,coordY,coordZ,probability
    series                 one seriesuid per line

A predictions file of this project (JSON, frame lps_mm, one class) is read as candidates at the centres of its boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medpretrain3d.boxes import box_center
from medpretrain3d.documents import read_rows
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.files import read_predictions

COORDINATES = ("coordX", "coordY", "coordZ")


@dataclass(frozen=True)
class Points:
    """Points of several scans: nodules with their diameter, or candidates with their probability.

    `series` (N,) str, `center_lps_mm` (N, 3) float64, `value` (N,) float64.
    """

    series: np.ndarray
    center_lps_mm: np.ndarray
    value: np.ndarray

    def by_series(self) -> dict[str, Points]:
        """Return those of each scan that has any, in the order of the file."""
        names, scan = np.unique(self.series, return_inverse=True)
        order = np.argsort(scan, kind="stable")
        places = np.split(order, np.searchsorted(scan[order], np.arange(1, len(names))))
        return {
            str(name): Points(self.series[mine], self.center_lps_mm[mine], self.value[mine])
            for name, mine in zip(names, places if len(names) else (), strict=True)
        }

    def num_outside(self, series: Sequence[str]) -> int:
        """Count the points that belong to none of the scans."""
        return int((~np.isin(self.series, list(series))).sum())


def no_points() -> Points:
    """Return a file without rows."""
    return Points(np.zeros(0, dtype=np.str_), np.zeros((0, 3)), np.zeros(0))


def read_series(path: Path) -> list[str]:
    """Return the scans that count, also those without nodules.

    Raises:
        UserError: no file, no scan, or a scan listed twice.
    """
    series = [row[0].strip() for row in _rows(path) if row and row[0].strip() not in ("", "seriesuid")]
    if not series:
        raise UserError(f"{path}: lists no scan; give one seriesuid per line")
    if len(set(series)) < len(series):
        twice = next(name for name in series if series.count(name) > 1)
        raise UserError(f"{path}: scan '{twice}' is listed twice; every scan counts once")
    return series


def read_nodules(path: Path) -> Points:
    """Annotated or excluded findings; a diameter below 0 stands for an unknown one.

    Raises:
        UserError: no file, a column is missing, or a number is none.
    """
    return _read_points(path, "diameter_mm")


def read_candidates(path: Path) -> Points:
    """Read predicted candidates, from LUNA16's CSV or from this project's JSON.

    Raises:
        UserError: no file, a column is missing, a number is none, a probability outside [0, 1], or a JSON that is not
            in lps_mm or has several classes.
    """
    if path.suffix == ".json":
        return _marks_of_boxes(path)
    candidates = _read_points(path, "probability")
    wrong = np.nonzero(~((candidates.value >= 0) & (candidates.value <= 1)))[0]
    if len(wrong):
        raise UserError(
            f"{path}: probability of mark {wrong[0] + 1} is {candidates.value[wrong[0]]:g}, must be in [0, 1]; "
            "give probabilities, not logits"
        )
    return candidates


def _marks_of_boxes(path: Path) -> Points:
    file = read_predictions(path)
    if file.frame != "lps_mm":
        raise UserError(f"{path}: frame is '{file.frame}', must be 'lps_mm': LUNA16's points are in world millimetres")
    if len(file.classes) != 1:
        raise UserError(f"{path}: has {len(file.classes)} classes, {list(file.classes)}; LUNA16 knows nodules only")
    boxes = np.concatenate([case.boxes for case in file.cases])
    names = np.repeat([case.case for case in file.cases], [len(case.scores) for case in file.cases])
    return Points(names, box_center(boxes), np.concatenate([case.scores for case in file.cases]))


def _read_points(path: Path, value: str) -> Points:
    rows = [row for row in _rows(path) if any(cell.strip() for cell in row)]
    header = [name.strip() for name in rows[0]] if rows else []
    missing = [name for name in ("seriesuid", *COORDINATES, value) if name not in header]
    if missing:
        raise UserError(f"{path}: has no column '{missing[0]}'; its first line must name seriesuid, coordX ... {value}")
    if len(rows) == 1:
        return no_points()
    places = [header.index(name) for name in (*COORDINATES, value)]
    try:
        numbers = np.array([[float(row[place]) for place in places] for row in rows[1:]])
    except (ValueError, IndexError) as error:
        raise UserError(f"{path}: a row without four numbers ({error}); correct or remove it") from error
    wrong = np.nonzero(~np.isfinite(numbers).all(axis=1))[0]
    if len(wrong):
        raise UserError(f"{path}: row {wrong[0] + 1} holds {numbers[wrong[0]].tolist()}, must be finite numbers")
    series = np.array([row[header.index("seriesuid")].strip() for row in rows[1:]])
    return Points(series, numbers[:, :3], numbers[:, 3])


def _rows(path: Path) -> list[list[str]]:
    return read_rows(path, "give a CSV")
