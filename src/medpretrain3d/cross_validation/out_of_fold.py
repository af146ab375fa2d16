"""Predictions of all cases, each by the detector of the fold that held it out.

No network runs: each run kept what its detector saw in its validation cases. How boxes are merged in a fold's cases is
chosen by the cases of the *other* folds, which their own detectors have not seen either, so neither weights nor
settings have met the case that is scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from medpretrain3d.boxes import Detections
from medpretrain3d.cross_validation.fold_runs import FoldRuns
from medpretrain3d.cross_validation.validation_scores import score_of_merging
from medpretrain3d.errors import UserError
from medpretrain3d.inference import InferenceConfig, Prediction
from medpretrain3d.inference.cached_detections import CachedCase, CachedDetections
from medpretrain3d.inference.sweep import best, merge_case, sweep


@dataclass(frozen=True)
class OutOfFold:
    """What the detectors of all folds found in the cases they have not seen."""

    predictions: tuple[Prediction, ...]
    """Of every case of every fold, in the order of their ids."""
    configs: tuple[InferenceConfig, ...]
    """How boxes were merged in each fold's cases."""
    config: InferenceConfig
    """How boxes should be merged in new scans: chosen by the cases of all folds."""


def merge_out_of_fold(
    runs: FoldRuns, is_tuned: bool = True, progress: Callable[[str], None] = lambda _: None
) -> OutOfFold:
    """Merge what each fold's detector saw in the cases it has not trained on.

    Args:
        runs: of all folds.
        is_tuned: whether merging is chosen; else the recipe's settings hold.
        progress: told what is worked at.

    Raises:
        UserError: raw detections are missing, damaged, of another detector, other classes or cases than the fold's, or
            looked at in different ways; or there is no object to choose by.
    """
    seen = [_load(runs, number) for number in range(len(runs.folders))]
    start = seen[0].inference
    for number, one in enumerate(seen):
        _refuse_other_ways(runs.folders[0], start, runs.folders[number], one.inference)
    merge = _Merger()
    configs = [start] * len(seen)
    config = start
    if is_tuned:
        for number in range(len(seen)):
            progress(f"choosing how to merge in fold {number}")
            others = [case for other, one in enumerate(seen) if other != number for case in one.cases]
            configs[number] = _chosen(others, start, runs, merge)
        progress("choosing how to merge in new scans")
        config = _chosen([case for one in seen for case in one.cases], start, runs, merge)
    predictions = [
        _prediction(runs, case, merge(case, how), how)
        for one, how in zip(seen, configs, strict=True)
        for case in one.cases
    ]
    return OutOfFold(tuple(sorted(predictions, key=lambda one: one.case)), tuple(configs), config)


class _Merger:
    """Merges boxes, each case in each way once: the folds try nearly the same ways on nearly the same cases."""

    def __init__(self) -> None:
        self._merged: dict[tuple[str, InferenceConfig], Detections] = {}

    def __call__(self, case: CachedCase, config: InferenceConfig) -> Detections:
        """Return a case's detections."""
        key = (case.case, config)
        if key not in self._merged:
            self._merged[key] = merge_case(case, config)
        return self._merged[key]


def _chosen(cases: Sequence[CachedCase], start: InferenceConfig, runs: FoldRuns, merge: _Merger) -> InferenceConfig:
    score = score_of_merging(cases, start, runs.store.classes, runs.is_by_distance)[1]
    trials = sweep(cases, start, score, merge=merge)
    return best(trials).config


def _load(runs: FoldRuns, number: int) -> CachedDetections:
    path = runs.folders[number] / "validation" / "sightings.safetensors"
    seen = CachedDetections.load(path)
    seen.refuse_other_weights(path, runs.folders[number] / "bundle")
    classes = tuple(runs.store.classes)
    if seen.classes != classes:
        raise UserError(f"{path}: is of classes {', '.join(seen.classes)}, the store of {', '.join(classes)}")
    held_out = runs.store.all_splits.fold(number).get("val", ())
    if sorted(case.case for case in seen.cases) != sorted(held_out):
        raise UserError(
            f"{path}: holds {len(seen.cases)} cases, which are not the {len(held_out)} that fold {number} of "
            f"{runs.store.place} holds out; train the fold again"
        )
    return seen


def _refuse_other_ways(first: Path, start: InferenceConfig, folder: Path, how: InferenceConfig) -> None:
    names = [field.name for field in fields(start) if getattr(start, field.name) != getattr(how, field.name)]
    if names:
        found = ", ".join(f"{name}: {getattr(start, name)} and {getattr(how, name)}" for name in names)
        raise UserError(
            f"the raw detections of {first} and {folder} differ in inference, {found}; wanted what runs of one recipe "
            "leave: train the fold again whose file was made anew"
        )


def _prediction(runs: FoldRuns, cached: CachedCase, found: Detections, how: InferenceConfig) -> Prediction:
    case = runs.store.case(cached.case)
    return Prediction.of(case.id, found, case.grid, case.source_grid, case.source_file, how.keeps_centers)
