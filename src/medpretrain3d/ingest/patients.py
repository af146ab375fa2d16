"""Which patient a scan is of, where the layout of a data set does not say: a table, or a pattern of case ids.

Scans of one patient are put into one fold, and into one side of a split, for on a patient it has seen a network is
better than it will be on new ones.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medpretrain3d.documents import NA_VALUES, read_table
from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers import RawDataset
from medpretrain3d.ingest.importers.base import Leftover
from medpretrain3d.ingest.importers.ids import ScanIds

CASE = "case"
UNKNOWN = "cases of no known patient, each taken for a patient of its own"


@dataclass(frozen=True)
class PatientTable:
    """Patients named by a CSV file with a row per case, such as a list of participants.

    Args:
        path: the file. Its column `case` holds case ids; where there is none, its first column does.
        column: that of the patients.
    """

    path: Path
    column: str = "patient"

    def __call__(self, case_ids: Sequence[str]) -> tuple[dict[str, str], list[Leftover]]:
        """Return the patient of each case that the table names, and a leftover for each row that means no case.

        Raises:
            UserError: no such file or column, no row that means a case, or a case of two patients.
        """
        advice = "give a CSV file with the columns case and patient"
        rows = read_table(self.path, [self.column], advice, na_values=NA_VALUES)
        if not rows:
            raise UserError(f"{self.path}: holds no row; wanted one per case, with the columns case and {self.column}")
        key = CASE if CASE in rows[0] else next(iter(rows[0]))
        if key == self.column:
            raise UserError(f"{self.path}: has no column of case ids beside '{self.column}'; call one '{CASE}'")
        found, leftovers = ScanIds(case_ids).meet(self.path, [row[key] for row in rows])
        patients: dict[str, str] = {}
        for row in rows:
            case_id, patient = found.get(row[key]), row[self.column]
            if case_id is None or not patient:
                continue
            if patients.setdefault(case_id, patient) != patient:
                raise UserError(f"{self.path}: case '{case_id}' is of two patients; keep one of its rows")
        return patients, leftovers

    def is_read_from(self, path: Path) -> bool:
        """Return whether a file is the table."""
        return path.is_file() and path.samefile(self.path)


@dataclass(frozen=True)
class PatientPattern:
    r"""Patients named by a part of each case id.

    Args:
        pattern: a regular expression that an id begins with; its first group is the patient, as in `(\w+)_scan\d+`.

    Raises:
        UserError: no regular expression, or one without exactly one group.

    Example:
        >>> PatientPattern(r"(p\d+)_")(["p1_early", "p1_late", "p2_early"])[0]
        {'p1_early': 'p1', 'p1_late': 'p1', 'p2_early': 'p2'}
    """

    pattern: str

    def __post_init__(self) -> None:
        try:
            num_groups = re.compile(self.pattern).groups
        except re.error as error:
            raise UserError(f"--patient-pattern '{self.pattern}': no regular expression ({error})") from error
        if num_groups != 1:
            raise UserError(
                f"--patient-pattern '{self.pattern}': has {num_groups} groups, wanted one, around the part of a case "
                r"id that is the patient, as in '(\w+)_scan\d+'"
            )

    def __call__(self, case_ids: Sequence[str]) -> tuple[dict[str, str], list[Leftover]]:
        """Return the patient of each case whose id fits; no leftovers.

        Raises:
            UserError: no id fits.
        """
        matches = {case_id: re.match(self.pattern, case_id) for case_id in case_ids}
        patients = {case_id: match[1] for case_id, match in matches.items() if match and match[1]}
        if not patients:
            raise UserError(
                f"--patient-pattern '{self.pattern}': fits none of {len(case_ids)} case ids, which are like "
                f"'{min(case_ids, default='')}'"
            )
        return patients, []

    def is_read_from(self, path: Path) -> bool:
        """Return that no file is read."""
        return False


Patients = PatientTable | PatientPattern


def with_patients(raws: Sequence[Path], datasets: Sequence[RawDataset], patients: Patients | None) -> list[RawDataset]:
    """Return data sets whose cases are of the patients that a user names, in place of what the layout says.

    A case that the user's source does not name keeps the patient of its layout; where that names none either, the case
    is counted among what is used otherwise than written.

    Raises:
        UserError: see the source.
    """
    if patients is None:
        return list(datasets)
    named, leftovers = patients([case.id for dataset in datasets for case in dataset.cases])
    result = []
    for raw, dataset in zip(raws, datasets, strict=True):
        cases = tuple(replace(case, patient=named.get(case.id, case.patient)) for case in dataset.cases)
        unknown = [Leftover(case.id, UNKNOWN, is_used=True) for case in cases if case.patient is None]
        others = [one for one in dataset.leftovers if not patients.is_read_from(raw / one.what)]
        result.append(replace(dataset, cases=cases, leftovers=(*others, *unknown)))
    if leftovers:
        result[0] = replace(result[0], leftovers=(*result[0].leftovers, *leftovers))
    return result
