"""What the intervals and verdicts are worth: simulated studies with real AP of simulated detections.

`python -m benchmarks.coverage` writes the tables of docs/statistics.md. Everything is drawn from one seed, so the
tables are the same on every machine; about a quarter of an hour on one core.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.stats import norm

from medpretrain3d.evaluation.simulation import SimulatedArm, simulate_arms, simulate_scans, true_map
from medpretrain3d.statistics import (
    ArmScores,
    Verdict,
    arm_effect,
    difference_pseudo_values,
    judge,
    pool,
    share_interval,
    sign_flip_p,
)
from medpretrain3d.statistics.effect import Effect

PAGE = Path(__file__).resolve().parents[1] / "docs" / "statistics.md"
BEGIN, END = "<!-- measured: coverage -->", "<!-- end of coverage -->"
SKILL, NUM_STUDIES, NUM_PAIRS = 0.5, 300, 600


def studies() -> Iterator[str]:
    """Coverage of a difference of arms that are alike, and how often any of two is called better or worse."""
    yield "| seeds | scans | SD between seeds | 95 % interval covers | family error |"
    yield "|---|---|---|---|---|"
    for num_seeds in (1, 2, 3, 5, 10):
        for num_scans in (10, 20, 40, 100):
            for seed_sd in (0.0, 0.01, 0.03):
                generator = np.random.default_rng(0)
                covered, wrong = [], 0
                for _ in range(NUM_STUDIES):
                    scans = simulate_scans(generator, num_scans)
                    drawn = simulate_arms(generator, scans, [SKILL] * 3, num_seeds, seed_sd)
                    baseline, *arms = (_scores(str(place), arm, num_scans) for place, arm in enumerate(drawn))
                    judged = judge([arm_effect(arm, baseline) for arm in arms])
                    covered += [one.interval[0] <= 0 <= one.interval[1] for one in judged]
                    wrong += any(one.verdict in (Verdict.BETTER, Verdict.WORSE) for one in judged)
                error = f"{100 * wrong / NUM_STUDIES:.1f} %" if num_seeds > 1 else "no verdict"
                yield f"| {num_seeds} | {num_scans} | {seed_sd:g} | {100 * np.mean(covered):.1f} % | {error} |"


def values() -> Iterator[str]:
    """Coverage of intervals of one run's AP by the method, and of the percentile bootstrap for comparison."""
    yield "| true AP | scans | percentile bootstrap | BCa bootstrap | here (Korn and Graubard) |"
    yield "|---|---|---|---|---|"
    for skill in (-0.5, 0.5, 1.6, 2.4):
        truth = float(true_map([skill], num_sets=20)[0])
        for num_scans in (10, 20, 40, 100):
            generator = np.random.default_rng(0)
            covered = np.zeros(3)
            for _ in range(NUM_STUDIES):
                scans = simulate_scans(generator, num_scans)
                (arm,) = simulate_arms(generator, scans, [skill], 1, 0.0, replicates=500)
                value, without, replicates = float(arm.values[0]), arm.without[0], arm.replicates[0]
                intervals = (
                    np.nanquantile(replicates, [0.025, 0.975]),
                    _bca(value, without, replicates[~np.isnan(replicates)]),
                    share_interval(value, without, 0.95, num_scans),
                )
                covered += [low <= truth <= high for low, high in intervals]
            cells = " | ".join(f"{100 * share / NUM_STUDIES:.0f} %" for share in covered)
            yield f"| {truth:.2f} | {num_scans} | {cells} |"


def pairs() -> Iterator[str]:
    """Intervals and p of one pair of runs of equal skill."""
    yield "| scans | 95 % interval of the pair covers | p <= 0.05 | p <= 0.01 |"
    yield "|---|---|---|---|"
    for num_scans in (8, 10, 12, 20, 40, 100):
        generator = np.random.default_rng(0)
        covered, p_values = [], []
        for _ in range(NUM_PAIRS):
            a, b = simulate_arms(generator, simulate_scans(generator, num_scans), [SKILL] * 2, 1, 0.0)
            one, other = _scores("a", a, num_scans), _scores("b", b, num_scans)
            low, high = arm_effect(other, one).interval(0.95)
            covered.append(low <= 0 <= high)
            p_values.append(sign_flip_p(difference_pseudo_values(other, one)[0], 999))
        cover = f"{100 * np.mean(covered):.1f} %" if num_scans >= 10 else "none is given"
        shares = " | ".join(f"{100 * np.mean(np.array(p_values) <= level):.1f} %" for level in (0.05, 0.01))
        yield f"| {num_scans} | {cover} | {shares} |"


def data_sets() -> Iterator[str]:
    """Coverage of the mean effect over data sets, and of the effect on a new one."""
    yield "| data sets | SD between them | 95 % interval of the mean | prediction interval |"
    yield "|---|---|---|---|"
    for number in (3, 5, 8):
        for between in (0.0, 0.01, 0.03):
            generator = np.random.default_rng(0)
            hits = np.zeros(2)
            for _ in range(2000):
                errors = generator.uniform(0.01, 0.03, number)
                found = generator.normal(0.02, between, number) + generator.normal(0, errors)
                pooled = pool([Effect("a", d, e, 20.0, 5, 50) for d, e in zip(found, errors, strict=True)])
                new = generator.normal(0.02, between)
                for place, (low, high) in enumerate((pooled.effect.interval(0.95), pooled.prediction_interval(0.95))):
                    hits[place] += low <= (0.02, new)[place] <= high
            yield f"| {number} | {between:g} | {hits[0] / 20:.1f} % | {hits[1] / 20:.1f} % |"


def _scores(name: str, arm: SimulatedArm, num_scans: int) -> ArmScores:
    return ArmScores(name, tuple(range(len(arm.values))), arm.values, arm.without, tuple(map(str, range(num_scans))))


def _bca(value: float, without: np.ndarray, replicates: np.ndarray) -> np.ndarray:
    """Bias-corrected and accelerated interval (Efron, 1987)."""
    below = ((replicates < value).sum() + 0.5 * (replicates == value).sum()) / len(replicates)
    bias = norm.ppf(np.clip(below, 1e-3, 1 - 1e-3))
    pull = without.mean() - without
    square = (pull**2).sum()
    acceleration = (pull**3).sum() / (6 * square**1.5) if square > 1e-12 else 0.0
    moved = bias + norm.ppf([0.025, 0.975])
    return np.asarray(np.quantile(replicates, norm.cdf(bias + moved / (1 - acceleration * moved))))


if __name__ == "__main__":
    sections = {
        f"Studies: two arms like the baseline, {NUM_STUDIES} studies a row": studies,
        f"One run: AP at IoU 0.1 and 0.5, {NUM_STUDIES} runs a row": values,
        f"One pair of runs that are alike, {NUM_PAIRS} pairs a row": pairs,
        "Over data sets: 2,000 draws a row": data_sets,
    }
    parts = []
    for heading, table in sections.items():
        print(f"### {heading}", flush=True)
        lines = []
        for line in table():
            print(line, flush=True)
            lines.append(line)
        parts.append(f"### {heading}\n\n" + "\n".join(lines))
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}", encoding="utf-8")
