"""The one place that says better, worse, equivalent or inconclusive."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from medpretrain3d.lines import counted_scans
from medpretrain3d.statistics.effect import MIN_DATA_SETS, MIN_PATIENTS, MIN_SEEDS, Effect
from medpretrain3d.statistics.multiplicity import holm_factors

ONE_RUN_EACH = "an interval over scans of one run each: it says nothing about the method"
AT_LIMIT = "both at the limit of the metric: nothing is known of the difference"


class Verdict(StrEnum):
    """What a study says about an arm. `NONE` is no verdict: nothing is known about the method.

    Example:
        >>> from medpretrain3d.statistics import Effect, judge
        >>> one_run_each = Effect("mae", 0.2, 0.01, 99.0, num_seeds=1, num_scans=100)
        >>> print(judge([one_run_each])[0].verdict)
        no verdict
    """

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"
    NONE = "no verdict"


@dataclass(frozen=True)
class Judgement:
    """An effect among a family of them: its interval, the same corrected for the family, and the verdict."""

    effect: Effect
    verdict: Verdict
    reason: str
    """In words; empty where the interval says all."""
    confidence: float
    interval: tuple[float, float]
    corrected_interval: tuple[float, float]
    """Excludes 0 exactly where the corrected p is below 1 - confidence."""
    p_value: float
    corrected_p_value: float
    equivalence_interval: tuple[float, float] = (math.nan, math.nan)
    """Of two one-sided tests: 90 % where the others are of 95 %."""
    delta: float | None = None
    """The difference that counts as none."""
    num_asked: int = 1
    """Questions of the family."""

    @property
    def is_within_delta(self) -> bool:
        """Whether two one-sided tests place it within +-delta."""
        low, high = self.equivalence_interval
        return self.delta is not None and -self.delta <= low and high <= self.delta

    @property
    def shown_interval(self) -> tuple[float, float]:
        """The interval that the verdict goes by: corrected for the family where there is a verdict."""
        return self.interval if self.verdict is Verdict.NONE else self.corrected_interval

    @property
    def mirrored(self) -> Judgement:
        """The same of the baseline minus the arm."""
        effect = replace(self.effect, difference=-self.effect.difference)
        verdict = {Verdict.BETTER: Verdict.WORSE, Verdict.WORSE: Verdict.BETTER}.get(self.verdict, self.verdict)
        return replace(
            self,
            effect=effect,
            verdict=verdict,
            interval=_mirrored(self.interval),
            corrected_interval=_mirrored(self.corrected_interval),
            equivalence_interval=_mirrored(self.equivalence_interval),
        )


def judge(
    effects: Sequence[Effect], delta: float | None = None, confidence: float = 0.95, num_declared: int = 0
) -> list[Judgement]:
    """Return the verdict of each effect of a family: all arms of the primary metric at the full budget.

    better, worse: the interval, corrected for the family after Holm, excludes 0. equivalent: the plain interval of
    1 - 2 alpha (90 %) lies within +-delta (two one-sided tests). Otherwise inconclusive. No verdict where the seeds are
    fewer than two, the patients fewer than ten, both sides at a limit of the metric, or a pool has fewer than three
    data sets; such effects count for nothing in the family, unless it was declared with them.

    Args:
        effects: all that is asked at once.
        delta: the difference that counts as none, declared before the results; None for no verdict of equivalence.
        confidence: of the intervals.
        num_declared: questions of the family as it was declared. Those that nothing answers yet are corrected for as
            if they had found nothing: what comes out early is not easier to confirm than at the end.

    Raises:
        ValueError: delta is not above 0, or the confidence not within (0, 1).
    """
    if delta is not None and not delta > 0:
        raise ValueError(f"delta is {delta:g}, must be above 0: the difference that counts as none")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence:g}, must lie between 0 and 1")
    asked = [one.p_value if one.is_about_method else float("nan") for one in effects]
    number = max(num_declared, sum(one.is_about_method for one in effects))
    unanswered = number - sum(one.is_about_method for one in effects)
    factors = holm_factors([*asked, *[1.0] * unanswered])[: len(asked)].tolist()
    return [_judge(one, factor, number, delta, confidence) for one, factor in zip(effects, factors, strict=True)]


def _judge(effect: Effect, factor: float, num_asked: int, delta: float | None, confidence: float) -> Judgement:
    alpha = 1 - confidence
    p_value, interval = effect.p_value, effect.interval(confidence)
    if not effect.is_about_method:
        nothing = (float("nan"), float("nan"))
        reason = _why_not(effect)
        return Judgement(effect, Verdict.NONE, reason, confidence, interval, nothing, p_value, float("nan"))
    corrected = min(1.0, p_value * factor)
    low, high = effect.interval(1 - 2 * alpha)
    is_small = delta is not None and -delta <= low and high <= delta
    reason = ""
    if corrected < alpha:
        verdict = Verdict.BETTER if effect.difference > 0 else Verdict.WORSE
        reason = f"by less than delta, {delta:g}" if is_small else ""
    elif is_small:
        verdict, reason = Verdict.EQUIVALENT, f"the {1 - 2 * alpha:.0%} interval lies within +-{delta:g}"
    else:
        verdict = Verdict.INCONCLUSIVE
    wide = effect.interval(1 - alpha / factor)
    return Judgement(
        effect, verdict, reason, confidence, interval, wide, p_value, corrected, (low, high), delta, num_asked
    )


def _mirrored(interval: tuple[float, float]) -> tuple[float, float]:
    return -interval[1], -interval[0]


def _why_not(effect: Effect) -> str:
    if effect.num_data_sets != 1 and effect.num_data_sets < MIN_DATA_SETS:
        return f"{effect.num_data_sets} data sets; a claim about others needs {MIN_DATA_SETS}"
    if effect.num_data_sets == 1 and effect.num_patients < MIN_PATIENTS:
        return f"{counted_scans(effect.num_scans, effect.num_patients, 'test scan')}; an interval needs {MIN_PATIENTS}"
    if effect.num_seeds < MIN_SEEDS:
        return ONE_RUN_EACH
    if effect.is_at_limit:
        return AT_LIMIT
    return "the difference is not known"
