"""How sure a study is: pseudo-values, variances over seeds and patients, pooling, correction, verdicts, planning."""

from medpretrain3d.statistics.arms import (
    ArmScores,
    are_at_limit,
    area_scores,
    arm_effect,
    difference_pseudo_values,
    pilot_components,
)
from medpretrain3d.statistics.budget_curves import area_over_log, efficiency_ratio, reaching_ratio
from medpretrain3d.statistics.effect import MIN_DATA_SETS, MIN_PATIENTS, MIN_SEEDS, Effect
from medpretrain3d.statistics.hypotheses import Answer, Hypothesis, parse_hypothesis
from medpretrain3d.statistics.intervals import rate_interval, share_interval
from medpretrain3d.statistics.multiplicity import holm
from medpretrain3d.statistics.planning import designs, detectable_difference, power, settling_designs
from medpretrain3d.statistics.pooling import pool
from medpretrain3d.statistics.pseudo_values import jackknife_variance, leave_one_out_weights, pseudo_values
from medpretrain3d.statistics.ranking import ranking_stability
from medpretrain3d.statistics.registration import (
    declaration_sha256,
    declared_before,
    registration_note,
)
from medpretrain3d.statistics.sign_flip import sign_flip_p
from medpretrain3d.statistics.two_way import (
    effect_of,
    mean_variance,
    variance_components,
)
from medpretrain3d.statistics.verdicts import AT_LIMIT, ONE_RUN_EACH, Verdict, judge

__all__ = [
    "AT_LIMIT",
    "MIN_DATA_SETS",
    "MIN_PATIENTS",
    "MIN_SEEDS",
    "ONE_RUN_EACH",
    "Answer",
    "ArmScores",
    "Effect",
    "Hypothesis",
    "Verdict",
    "are_at_limit",
    "area_over_log",
    "area_scores",
    "arm_effect",
    "declaration_sha256",
    "declared_before",
    "designs",
    "detectable_difference",
    "difference_pseudo_values",
    "effect_of",
    "efficiency_ratio",
    "holm",
    "jackknife_variance",
    "judge",
    "leave_one_out_weights",
    "mean_variance",
    "parse_hypothesis",
    "pilot_components",
    "pool",
    "power",
    "pseudo_values",
    "ranking_stability",
    "rate_interval",
    "reaching_ratio",
    "registration_note",
    "settling_designs",
    "share_interval",
    "sign_flip_p",
    "variance_components",
]
