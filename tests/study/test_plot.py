from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from hypothesis import example, given
from hypothesis import strategies as st

from medpretrain3d.study.plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Series, line_plot


def points(svg: str, tag: str = "polyline") -> list[tuple[float, float]]:
    text = re.search(rf'<{tag} [^>]*points="([^"]*)"', svg)
    assert text is not None
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in text.group(1).split())]


def test_corners_of_the_data_are_corners_of_the_frame():
    svg = line_plot([Series("a", 0, [0, 10], [0.0, 1.0])], Axis("x"), Axis("y"))
    assert points(svg) == [(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, TOP)]


def test_log_axis_puts_equal_factors_at_equal_distances():
    svg = line_plot([Series("a", 0, [1, 2, 4], [0.0, 0.5, 1.0])], Axis("x", 1, 4, is_log2=True), Axis("y"))
    left, middle, right = (x for x, _ in points(svg))
    assert middle == (left + right) / 2


def test_free_limits_end_on_ticks():
    svg = line_plot([Series("a", 0, [0, 1], [0.05, 0.93])], Axis("x"), Axis("y"))
    assert ">0<" in svg
    assert ">1<" in svg


def test_band_goes_there_along_the_top_and_back_along_the_bottom():
    one = Series("a", 0, [0, 1], [0.5, 0.5], low=[0.0, 0.0], high=[1.0, 1.0])
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = points(line_plot([one], Axis("x"), Axis("y")), "polygon")
    assert (x0, x1, x2, x3) == (LEFT, WIDTH - RIGHT, WIDTH - RIGHT, LEFT)
    assert (y0, y1, y2, y3) == (TOP, TOP, HEIGHT - BOTTOM, HEIGHT - BOTTOM)


def test_names_are_escaped():
    svg = line_plot([Series('<b>"&', 0, [1], [1.0], has_dots=True)], Axis("<x>"), Axis("y & z"))
    assert "<b>" not in svg
    assert "<x>" not in svg
    ET.fromstring(svg)


number = st.floats(-1e6, 1e6) | st.just(float("nan"))


@example([(5e-324, float("nan"), float("nan"), float("nan"))], False)
@given(st.lists(st.tuples(st.floats(0, 1e6), number, number, number), max_size=8), st.booleans())
def test_any_numbers_make_well_formed_svg_within_its_frame(rows: list[tuple[float, ...]], has_dots: bool):
    x, y, low, high = ([row[i] for row in rows] for i in range(4))
    svg = line_plot([Series("a", 3, x, y, low, high, has_dots=has_dots)], Axis("x"), Axis("y"))
    ET.fromstring(svg)
    assert "nan" not in svg
    if "<polyline" in svg:
        assert all(LEFT - 0.1 <= px <= WIDTH and TOP - 0.1 <= py <= HEIGHT for px, py in points(svg))
