from __future__ import annotations

import pytest

from medpretrain3d.study.table import Estimate, PValue, Table


def test_estimates_have_three_decimals_and_signs_where_asked():
    assert str(Estimate(0.41249, 0.3, 0.5)) == "0.412 [0.300, 0.500]"
    assert str(Estimate(0.1, -0.25, 0.5, is_signed=True)) == "+0.100 [-0.250, +0.500]"
    assert str(Estimate(0.5)) == "0.500"
    assert str(Estimate(None)) == str(Estimate(float("nan"), float("nan"), float("nan"))) == "-"


def test_table_aligns_words_left_and_numbers_right():
    table = Table(["run", "mAP"], [["a", Estimate(0.5)], ["longer", "-"]])
    assert str(table).splitlines() == ["run       mAP", "------  -----", "a       0.500", "longer      -"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0003, "+0.0003"), (-0.0004, "-0.0004"), (-0.0, "+0.000"), (-1e-17, "+0.000"), (0.0005001, "+0.001")],
)
def test_a_difference_beside_zero_shows_on_which_side_it_lies(value: float, text: str):
    """An interval that excludes 0 was [+0.000, +0.040], and no difference at all was -0.000."""
    assert str(Estimate(0.02, value, 0.04, is_signed=True)) == f"+0.020 [{text}, +0.040]"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0174321, "0.0174"),
        (1.0, "1.0000"),
        (0.00004, "<0.0001"),
        (0.0, "<0.0001"),
        (0.049996, "0.049996"),
        (0.05, "0.0500"),
        (0.0500001, "0.0500"),
        (float("nan"), "-"),
    ],
)
def test_a_p_is_never_none_and_lies_on_its_side_of_the_level(value: float, text: str):
    assert str(PValue(value)) == text
