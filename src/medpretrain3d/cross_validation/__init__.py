"""From the runs of all folds to one result: each case found by the detector that has not seen it."""

from __future__ import annotations

from medpretrain3d.cross_validation.fold_runs import FoldRuns, find_fold_runs
from medpretrain3d.cross_validation.out_of_fold import OutOfFold, merge_out_of_fold

__all__ = ["FoldRuns", "OutOfFold", "find_fold_runs", "merge_out_of_fold"]
