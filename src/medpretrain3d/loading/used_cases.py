"""Which cases a run uses, and for what, as one hash: two runs with the same see the same scans in the same order."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from medpretrain3d.documents import json_text
from medpretrain3d.store.corpus import CaseRef


def cases_fingerprint(cases_of: Mapping[str, Sequence[CaseRef]]) -> str:
    """Return a hash of ids and their order, for each use; what is in the scans is in the fingerprints of their stores.

    Args:
        cases_of: cases by what they are for, as `train`; a use without cases is as one that is not named.
    """
    ids = {use: [[case.dataset, case.case_id] for case in cases] for use, cases in cases_of.items() if cases}
    return hashlib.sha256(json_text(dict(sorted(ids.items()))).encode()).hexdigest()
