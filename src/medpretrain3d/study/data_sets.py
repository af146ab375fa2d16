"""Which runs are of one data set, and which data sets share scans: only effects on others of each are pooled."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from medpretrain3d.evaluation import TargetCase
from medpretrain3d.lines import counted
from medpretrain3d.statistics import MIN_PATIENTS, Effect
from medpretrain3d.study.paired_scores import Scorer
from medpretrain3d.study.run import Run

SAME_OBJECT_MM = 5.0
"""How far a face of one object may lie apart in two stores of a scan: a slice, where they are of other spacing."""


def data_set_of(run: Run) -> str:
    """Return what tells data sets apart: the fingerprint of the store, or its name where a run does not say it."""
    return run.metadata.data_fingerprint or f"named {run.data_name}"


def why_not_pooled(data_sets: Sequence[Sequence[Run]], scorer: Scorer) -> str:
    """Return in words why effects on data sets are not those of several; empty where they are.

    Args:
        data_sets: tested runs of each.
        scorer: of the runs.

    Raises:
        UserError: what a run was tested on cannot be read.
    """
    scans = [{one.case: one for run in runs for one in scorer.targets([run]).cases} for runs in data_sets]
    for a, b in combinations(range(len(data_sets)), 2):
        runs = data_sets[a][0], data_sets[b][0]
        names = " and ".join(run.data_name for run in runs)
        if data_set_of(runs[0]) == data_set_of(runs[1]):
            return f"{names} are of one store"
        # Names alone say little: case_0001 is a scan of many data sets.
        shared = sum(_is_same_scan(one, scans[b][case]) for case, one in scans[a].items() if case in scans[b])
        if shared:
            return f"{names} share {counted(shared, 'test scan')}"
    return ""


def left_out(names: Sequence[str], effects: Sequence[Effect]) -> str:
    """Return in words which data sets a pool is without, since their effects have no interval; empty where it has all.

    Args:
        names: of the data sets.
        effects: of one arm on each.
    """
    without = [name for name, one in zip(names, effects, strict=True) if not one.has_interval]
    if not without:
        return ""
    why = f"fewer than {MIN_PATIENTS} patients, both arms at one limit of the metric, or no metric"
    return f"without {', '.join(without)}, where the difference has no interval ({why})"


def _is_same_scan(a: TargetCase, b: TargetCase) -> bool:
    """Return whether cases of one name have their objects at the same places, where they have any."""
    ours, theirs = (one.boxes[np.lexsort(one.boxes.T)] for one in (a, b))
    return len(ours) > 0 and ours.shape == theirs.shape and bool(np.allclose(ours, theirs, atol=SAME_OBJECT_MM))
