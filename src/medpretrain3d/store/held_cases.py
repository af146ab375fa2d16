"""Cases that are tested or validated on, known again in other stores by their scan, their patient and their name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from medpretrain3d.store.corpus import CaseRef


@dataclass(frozen=True)
class HeldCases:
    """What tells cases again: hashes of their voxels, and names of cases and patients.

    A name that means another case in another data set keeps that one out too: a scan less is no harm, a leak is.
    """

    voxels: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()

    @staticmethod
    def of(cases: Iterable[CaseRef]) -> HeldCases:
        """Note the cases that are held."""
        known = list(cases)
        return HeldCases(
            frozenset(case.voxels for case in known),
            frozenset(name for case in known for name in _names(case)),
        )

    def __contains__(self, case: CaseRef) -> bool:
        return self.has_scan(case) or not self.names.isdisjoint(_names(case))

    def has_scan(self, case: CaseRef) -> bool:
        """Return whether the very scan of a case is held, under whatever name."""
        return case.voxels in self.voxels

    def apart(self, cases: Sequence[CaseRef]) -> tuple[list[CaseRef], str]:
        """Return those of some cases that are not held, and in words how many were left out and why; empty for none."""
        left_out = [case for case in cases if case in self]
        if not left_out:
            return list(cases), ""
        num_scans = sum(map(self.has_scan, left_out))
        others = len(left_out) - num_scans
        parts = [f"the scans of {num_scans} are test or validation cases"] if num_scans else []
        parts += [f"{others} have the name or the patient of one"] if others else []
        first = left_out[0]
        return [case for case in cases if case not in self], (
            f"{len(left_out)} of {len(cases)} cases are left out: {' and '.join(parts)}, first '{first.case_id}' of "
            f"{first.store.place}"
        )


def _names(case: CaseRef) -> set[str]:
    return {case.case_id} if case.patient is None else {case.case_id, case.patient[1]}
