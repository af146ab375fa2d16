from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medpretrain3d.visualization.axes import Axis
from medpretrain3d.visualization.line_plot import HEIGHT, WIDTH, Series, line_plot
from medpretrain3d.visualization.style import ARM_COLORS, INK, PALE

SVG = "{http://www.w3.org/2000/svg}"


def lines(svg: str, arm: int = 0, axes: str = "axes_1") -> list[list[tuple[float, float]]]:
    """Corners of the lines in an arm's color."""
    found = re.findall(rf'<path d="([^"]*)"[^>]*style="[^"]*stroke: var\(--arm-{arm}\)', svg)
    return [[(float(x), float(y)) for x, y in re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", path)] for path in found]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(well_formed(svg)).iter(f"{SVG}text")]


def well_formed(svg: str) -> str:
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)


def test_corners_of_the_data_are_opposite_corners_of_the_frame():
    (line,) = lines(line_plot([Series("a", 0, [0, 5, 10], [0.0, 0.5, 1.0])], Axis("x"), Axis("y")))
    (left, bottom), (x, y), (right, top) = line
    assert left < x < right
    assert (x, y) == (pytest.approx((left + right) / 2, abs=0.01), pytest.approx((bottom + top) / 2, abs=0.01))
    assert bottom > top


def test_log_axis_puts_equal_factors_at_equal_distances():
    svg = line_plot([Series("a", 0, [1, 2, 4], [0.0, 0.5, 1.0])], Axis("x", 1, 4, is_log2=True), Axis("y"))
    left, middle, right = (x for x, _ in lines(svg)[0])
    assert middle == pytest.approx((left + right) / 2, abs=0.01)


def test_free_limits_end_on_ticks():
    found = texts(line_plot([Series("a", 0, [0, 1], [0.05, 0.93])], Axis("x"), Axis("y")))
    assert found.count("0") == 2
    assert found.count("1") == 2


def test_given_ticks_are_the_only_ones():
    svg = line_plot([Series("a", 0, [1, 8], [0, 1])], Axis("x", 1, 8, [(1, "one"), (8, "eight")], True), Axis("y"))
    assert [text for text in texts(svg) if text.isalpha()] == ["one", "eight", "x", "y"]


def test_names_are_escaped_and_dots_show_their_value():
    svg = line_plot([Series('<b>"&', 0, [1], [0.5], has_dots=True)], Axis("<x>"), Axis("y & z"))
    assert "<b>" not in svg
    assert "<x>" not in svg
    titles = [element.text for element in ET.fromstring(well_formed(svg)).iter(f"{SVG}title")]
    assert titles == ['<b>"&: 0.500']


def test_colors_are_those_of_the_page_and_arms_beyond_them_are_dashed():
    both = [Series("a", 0, [0, 1], [0, 1]), Series("b", len(ARM_COLORS), [0, 1], [1, 0])]
    svg = line_plot(both, Axis("x"), Axis("y"))
    assert len(lines(svg)) == 2
    assert svg.count("stroke-dasharray: ") == 1
    for color in (*ARM_COLORS, INK, PALE):
        assert color not in svg


number = st.floats(-1e6, 1e6) | st.just(float("nan"))


@settings(max_examples=20)
@example([(5e-324, float("nan"), float("nan"), float("nan"))], False)
@example([(0.0, 1.0, 2.0, 0.5), (0.0, 1.0, float("nan"), 0.5)], True)
@given(st.lists(st.tuples(st.floats(0, 1e6), number, number, number), max_size=8), st.booleans())
def test_any_numbers_make_well_formed_svg_within_its_frame(rows: list[tuple[float, ...]], has_dots: bool):
    x, y, low, high = ([row[i] for row in rows] for i in range(4))
    svg = line_plot([Series("a", 3, x, y, low, high, has_dots=has_dots)], Axis("x"), Axis("y"))
    ET.fromstring(well_formed(svg))
    assert "nan" not in svg.replace("Anan", "")
    for line in lines(svg, arm=3):
        assert all(-1 <= px <= WIDTH + 1 and -1 <= py <= HEIGHT + 1 for px, py in line)
