"""Training losses of arms beside their baseline's: whether what was transferred learns faster, and for how long."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from medpretrain3d.statistics.student import critical_value
from medpretrain3d.study.conditions import labels_of
from medpretrain3d.study.differences import Difference
from medpretrain3d.study.encoders import alike_in_encoder, seeds_of_encoders
from medpretrain3d.study.run import Run
from medpretrain3d.study.table import Estimate, Table

NUM_PARTS = 4
LOSS = "train/loss"
NO_LOSSES = ("train/grad_norm", "train/num_invalid")
"""What is logged beside the losses; versions differ in it."""


def training_loss_table(differences: Sequence[Difference], confidence: float = 0.95) -> Table:
    """Return a row per arm and place: its training loss minus the baseline's in each quarter of the run.

    Differences are paired by seed, folds of a seed averaged, with intervals over seeds (Student's t) that are corrected
    for nothing. Seeds that begin from one of several encoders are averaged first, as they are for the test. An arm
    whose runs make other steps or sum up other losses than its baseline's has no row.

    Args:
        differences: arms and baselines whose runs are paired.
        confidence: of the intervals.
    """
    header = ["arm", "data set", "labels", "seeds", *(f"quarter {part + 1}" for part in range(NUM_PARTS))]
    table = Table(header, num_text_columns=3)
    for one in differences:
        by_seed: dict[int, list[np.ndarray]] = {}
        sides: dict[int, list[list[Run]]] = {}
        for run, baseline in zip(one.runs, one.baselines, strict=True):
            ours, theirs = _quarters(run), _quarters(baseline)
            if ours is None or theirs is None or not _are_alike(run, baseline):
                break
            seed = run.metadata.seed or 0
            by_seed.setdefault(seed, []).append(ours - theirs)
            for side, member in zip(sides.setdefault(seed, [[], []]), (run, baseline), strict=True):
                side.append(member)
        else:
            like = alike_in_encoder(sides)
            draws: dict[int, list[np.ndarray]] = {}
            for seed, folds in by_seed.items():
                draws.setdefault(like[seed], []).append(np.mean(folds, axis=0))
            means = np.array([np.mean(of_draw, axis=0) for of_draw in draws.values()])
            seeds = seeds_of_encoders(len(by_seed), len(draws))
            row = [one.arm, one.place, labels_of(one.runs[0]), seeds]
            facts = {"arm": one.arm, "data": one.setting[0], "labels": labels_of(one.runs[0])}
            table.add([*row, *(_mean(column, confidence) for column in means.T)], facts)
    return table


def _quarters(run: Run) -> np.ndarray | None:
    """Return the mean loss in each quarter of the steps (4,); None of a run that has none in one of them."""
    curve = run.curves.get(LOSS)
    steps = run.metadata.steps or run.metadata.budget_steps
    if curve is None or not steps:
        return None
    part = np.minimum(np.asarray(curve.steps) * NUM_PARTS // steps, NUM_PARTS - 1)
    values = np.asarray(curve.values)
    if len(np.unique(part)) < NUM_PARTS:
        return None
    return np.array([values[part == number].mean() for number in range(NUM_PARTS)])


def _are_alike(run: Run, other: Run) -> bool:
    """Return whether two runs make the same steps and sum up the same losses."""
    losses, others = (
        {name for name in one.curves if name.startswith("train/") and name not in NO_LOSSES} for one in (run, other)
    )
    return losses == others and run.metadata.budget_steps == other.metadata.budget_steps


def _mean(values: np.ndarray, confidence: float) -> Estimate:
    mean, count = float(values.mean()), len(values)
    if count < 2 or np.ptp(values) == 0:  # seeds without any spread say nothing of how sure their mean is
        return Estimate(mean, is_signed=True)
    half = critical_value(1 - confidence, count - 1) * float(values.std(ddof=1)) / math.sqrt(count)
    return Estimate(mean, mean - half, mean + half, is_signed=True)
