"""Patients of scans: they are what varies, and a second scan of one shows little that is new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from medpretrain3d.statistics import leave_one_out_weights


class OfPatient(Protocol):
    """A scan that may say whose it is."""

    @property
    def patient(self) -> str | None:
        """Pseudonym, None where the scan is of a patient of its own."""


@dataclass(frozen=True, eq=False)
class Patients:
    """The patients of S scans.

    Example:
        >>> import numpy as np
        >>> from medpretrain3d.evaluation.patients import Patients
        >>> patients = Patients(np.array([0, 0, 1]))
        >>> patients.left_out()
        array([[0., 0., 1.],
               [1., 1., 0.]])
    """

    of_scan: np.ndarray
    """(S,) int64, number of each scan's patient, from 0."""

    @staticmethod
    def one_each(num_scans: int) -> Patients:
        """Return as many patients as scans."""
        return Patients(np.arange(num_scans))

    @staticmethod
    def of(scans: Sequence[OfPatient]) -> Patients:
        """Return the patients of some scans, numbered in their order."""
        numbers: dict[tuple[str | None, int | None], int] = {}
        keys = [(one.patient, place if one.patient is None else None) for place, one in enumerate(scans)]
        return Patients(np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64))

    @property
    def num(self) -> int:
        """Patients."""
        return int(self.of_scan.max(initial=-1)) + 1

    @property
    def has_one_scan_each(self) -> bool:
        """Whether no two scans are of one patient."""
        return self.num == len(self.of_scan)

    def num_with(self, has: np.ndarray) -> np.ndarray:
        """Count the patients of whom any scan has something, from which scans do (S, ...) bool: (...) int64."""
        found = np.zeros((self.num, *has.shape[1:]), dtype=bool)
        np.logical_or.at(found, self.of_scan, has)
        return np.asarray(found.sum(axis=0))

    def left_out(self) -> np.ndarray:
        """Return how often each scan counts without each patient or group of patients: (G, S) of 0 and 1."""
        return np.take(leave_one_out_weights(self.num), self.of_scan, axis=1)
