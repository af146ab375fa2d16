from __future__ import annotations

from medpretrain3d.study.table import Estimate, Table


def test_estimates_have_three_decimals_and_signs_where_asked():
    assert str(Estimate(0.41249, 0.3, 0.5)) == "0.412 [0.300, 0.500]"
    assert str(Estimate(0.1, -0.25, 0.5, is_signed=True)) == "+0.100 [-0.250, +0.500]"
    assert str(Estimate(0.5)) == "0.500"
    assert str(Estimate(None)) == str(Estimate(float("nan"), float("nan"), float("nan"))) == "-"


def test_table_aligns_words_left_and_numbers_right():
    table = Table(["run", "mAP"], [["a", Estimate(0.5)], ["longer", "-"]])
    assert str(table).splitlines() == ["run       mAP", "------  -----", "a       0.500", "longer      -"]
