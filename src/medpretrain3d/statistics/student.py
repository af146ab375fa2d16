"""Student's t distribution, from `scipy.special`: `scipy.stats` takes half a second to import, in every stage."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit


def two_sided_p(t: float, degrees_of_freedom: float) -> float:
    """Return the probability of a statistic as far from zero as `t`, or farther, on either side.

    Example:
        >>> from medpretrain3d.statistics.student import two_sided_p
        >>> round(two_sided_p(12.706, 1), 3)
        0.05
    """
    return float(2 * stdtr(degrees_of_freedom, -abs(t)))


def critical_value(alpha: float, degrees_of_freedom: Any) -> Any:
    """Return the value that |t| exceeds with probability `alpha`; of an array of degrees of freedom an array.

    Example:
        >>> from medpretrain3d.statistics.student import critical_value
        >>> round(float(critical_value(0.05, 1)), 3)
        12.706
    """
    return -np.asarray(stdtrit(degrees_of_freedom, alpha / 2))[()]
