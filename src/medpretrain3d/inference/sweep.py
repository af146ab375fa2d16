"""The best way to merge what was seen in the validation scans: choices tried one after the other, in seconds.

The network does not run: the raw detections of the validation scans were kept. Predicting needs no sweep; without one
the recipe's values are used.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medpretrain3d.boxes import Detections, Targets
from medpretrain3d.errors import UserError
from medpretrain3d.inference.cached_detections import CachedCase
from medpretrain3d.inference.config import InferenceConfig
from medpretrain3d.inference.merging import merge_raw_detections

Score = Callable[[list[Detections], list[Targets]], float]
Merge = Callable[[CachedCase, InferenceConfig], Detections]

STEPS: tuple[Mapping[str, tuple[Any, ...]], ...] = (
    {"merge": ("nms", "wbc"), "nms_iou": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)},
    {"border_weight": (0.1, 0.3, 1.0)},
    {"score_threshold": (0.02, 0.05, 0.1, 0.2)},
    {"min_size_mm": (0.0, 2.0, 3.0, 5.0)},
)
"""Choices that are tried together, in the order of their weight; each step keeps the best of the steps before."""
DISTANCE_STEPS: tuple[Mapping[str, tuple[Any, ...]], ...] = (
    {"merge_distance_mm": (1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0)},
    {"border_weight": (0.1, 0.3, 1.0)},
    {"score_threshold": (0.02, 0.05, 0.1, 0.2)},
)
"""Where boxes are merged by distance: what extents decide is not tried."""


@dataclass(frozen=True)
class Trial:
    """One way of merging and its score on the validation scans."""

    config: InferenceConfig
    score: float


def merge_case(case: CachedCase, config: InferenceConfig) -> Detections:
    """Return the detections of one case, merged."""
    return merge_raw_detections(case.raw_detections, config, case.spacing_mm)


def sweep(
    cases: Sequence[CachedCase],
    start: InferenceConfig,
    score: Score,
    steps: Sequence[Mapping[str, tuple[Any, ...]]] | None = None,
    merge: Merge = merge_case,
) -> list[Trial]:
    """Try ways of merging; the first trial is `start`, the best one is `best(trials)`.

    Args:
        cases: what was seen in the validation scans, and what there was.
        start: how they were looked at; what is not tried stays as it is here.
        score: of all scans' detections against their targets; higher is better.
        steps: values of fields of `InferenceConfig`, tried in all combinations within a step; None is `STEPS`, or
            `DISTANCE_STEPS` where `start` merges by distance. Score thresholds below that of `start` are not tried:
            what lies below was not kept.
        merge: how detections are merged; one that remembers serves several sweeps over the same cases.

    Raises:
        UserError: there is no scan, or no object in any of them.
    """
    if not any(len(case.targets.labels) for case in cases):
        raise UserError(f"{len(cases)} validation scans without a single object: nothing to choose by; label some")
    targets = [case.targets for case in cases]

    def trial(config: InferenceConfig) -> Trial:
        found = [merge(case, config) for case in cases]
        value = score(found, targets)
        return Trial(config, value if math.isfinite(value) else 0.0)

    trials = [trial(start)]
    for step in steps or (DISTANCE_STEPS if start.merge == "distance" else STEPS):
        base, tried = best(trials).config, {one.config for one in trials}
        for values in itertools.product(*step.values()):
            config = dataclasses.replace(base, **dict(zip(step, values, strict=True)))
            if config not in tried and config.score_threshold >= start.score_threshold:
                trials.append(trial(config))
    return trials


def best(trials: Sequence[Trial]) -> Trial:
    """Return the trial of the highest score; of equal ones the first, so nothing is changed without a gain."""
    return max(trials, key=lambda one: one.score)
