"""Patients of DICOM series, told by their headers and called by pseudonyms."""

from __future__ import annotations

from collections.abc import Mapping

from medpretrain3d.store.pseudonym import pseudonym_of
from medpretrain3d.store.readers import Series


def patients_of(series: Mapping[str, Series]) -> dict[str, str]:
    """Patient of each case, called by the pseudonym of its identifier, which is the same wherever the patient is met.

    `IssuerOfPatientID` is not asked for: some files of a patient have it and others do not. Anonymized exports may give
    one identifier to all, which tells nothing.

    Args:
        series: of each case, by its id.
    """
    found = {case_id: one.patient for case_id, one in series.items() if one.patient}
    are_told_apart = len(set(found.values())) > 1
    return {case_id: pseudonym_of(patient) for case_id, patient in found.items()} if are_told_apart else {}
