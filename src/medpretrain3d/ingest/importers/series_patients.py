"""Patients of DICOM series, told by their headers and called by their cases."""

from __future__ import annotations

from collections.abc import Mapping

from medpretrain3d.store.readers import Series


def patients_of(series: Mapping[str, Series]) -> dict[str, str]:
    """Patient of each case, called by the id of the first case of the same patient: no identifier is kept.

    Anonymized exports may give one identifier to all, which tells nothing.

    Args:
        series: of each case, by its id.
    """
    first: dict[str, str] = {}
    found = {}
    for case_id, one in sorted(series.items()):
        if one.patient:
            found[case_id] = first.setdefault(one.patient, case_id)
    return found if len(first) > 1 else {}
