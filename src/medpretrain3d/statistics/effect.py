"""A difference of two arms with what is needed to say how sure it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from medpretrain3d.statistics.student import critical_value, two_sided_p

MIN_PATIENTS = 10
"""With fewer, no interval claims its confidence: the jackknife of 8 knows neither tails nor skewness."""
MIN_SEEDS = 2
MIN_DATA_SETS = 3


@dataclass(frozen=True)
class Effect:
    """Arm minus baseline: estimate, standard error and degrees of freedom, and what they rest on.

    Example:
        >>> from medpretrain3d.statistics import Effect
        >>> low, high = Effect("mae", 0.03, 0.01, 9.0, num_seeds=5, num_scans=100).interval(0.95)
        >>> round(low, 3), round(high, 3)
        (0.007, 0.053)
    """

    name: str
    difference: float
    standard_error: float
    degrees_of_freedom: float
    num_seeds: int
    """Draws of the method: encoders, where several seeds begin from each, see `with_seeds`."""
    num_scans: int
    num_data_sets: int = 1
    is_at_limit: bool = False
    """Whether both sides found the same in every seed and scan, as both nothing: 0 of 12 and 0 of 12 may yet differ."""
    of_patients: int | None = None
    """Patients that the scans are of; None where each is of a patient of its own."""
    with_seeds: int | None = None
    """Seeds of fine-tuning that begin from `num_seeds` encoders; None where they share none, or all of them one."""

    @property
    def num_patients(self) -> int:
        """Patients, whose number decides whether there is an interval."""
        return self.num_scans if self.of_patients is None else self.of_patients

    @property
    def num_finetuning_seeds(self) -> int:
        """Seeds of fine-tuning, however many of them share an encoder."""
        return self.num_seeds if self.with_seeds is None else self.with_seeds

    @property
    def has_interval(self) -> bool:
        """Whether an interval may claim its confidence.

        It does from 10 patients on, finite, not at a limit of the metric, and pooled from 3 data sets on.
        """
        if self.is_at_limit:
            return False
        enough = self.num_patients >= MIN_PATIENTS if self.num_data_sets == 1 else self.num_data_sets >= MIN_DATA_SETS
        return enough and math.isfinite(self.difference) and math.isfinite(self.standard_error)

    @property
    def is_about_method(self) -> bool:
        """Whether the spread between seeds is known, without which an interval is one of two trained networks only."""
        return self.has_interval and self.num_seeds >= MIN_SEEDS

    @property
    def p_value(self) -> float:
        """Two-sided, of no difference; 1 where nothing differs at all, nan where there is no interval."""
        if not self.has_interval:
            return math.nan
        if self.standard_error == 0:
            return 1.0 if self.difference == 0 else 0.0
        return two_sided_p(self.difference / self.standard_error, self.degrees_of_freedom)

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return difference +- t standard errors; (nan, nan) where there is none to give."""
        if not self.has_interval:
            return math.nan, math.nan
        half = float(critical_value(1 - confidence, self.degrees_of_freedom)) * self.standard_error
        return self.difference - half, self.difference + half
