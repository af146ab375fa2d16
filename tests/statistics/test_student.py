"""Student's distribution is that of `scipy.stats`."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student

from medpretrain3d.statistics.student import critical_value, two_sided_p


@pytest.mark.parametrize("degrees_of_freedom", [1.0, 2.7, 9.0, 240.0, np.inf])
def test_it_is_that_of_scipy(degrees_of_freedom):
    for t in (-3.1, 0.0, 0.4, 7.0):
        assert two_sided_p(t, degrees_of_freedom) == pytest.approx(2 * student.sf(abs(t), degrees_of_freedom))
    for alpha in (0.5, 0.05, 0.001):
        assert critical_value(alpha, degrees_of_freedom) == pytest.approx(student.isf(alpha / 2, degrees_of_freedom))
    of_array = critical_value(0.05, np.array([degrees_of_freedom, 3.0]))
    np.testing.assert_allclose(of_array, student.isf(0.025, [degrees_of_freedom, 3.0]))
