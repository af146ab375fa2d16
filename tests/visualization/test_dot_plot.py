from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest

from medpretrain3d.visualization.axes import Axis
from medpretrain3d.visualization.dot_plot import Dot, DotRow, dot_plot
from medpretrain3d.visualization.style import LETTER_HEIGHT_PT

from .test_line_plot import lines, texts, well_formed

NAN = math.nan


def test_an_interval_ends_where_its_numbers_are_on_the_axis():
    svg = dot_plot([DotRow("a", [Dot(1, 0.5, 0.25, 0.75, "tip")])], Axis("x", 0.0, 1.0))
    ((start, end),) = lines(svg, arm=1)
    ticks = [float(x) for x, _ in re.findall(r'<use href="#[^"]*" x="([\d.]+)" y="([\d.]+)"', svg)]
    left, right = min(ticks), max(ticks)
    assert start[0] == pytest.approx(left + 0.25 * (right - left), abs=0.1)
    assert end[0] == pytest.approx(left + 0.75 * (right - left), abs=0.1)
    assert start[1] == end[1]


def test_rows_are_listed_from_top_to_bottom_and_their_dots_in_order():
    rows = [
        DotRow("first", [Dot(1, 0.5, 0, 1, "a"), Dot(2, 0.5, 0, 1, "b")]),
        DotRow("second", [Dot(3, 0.5, 0, 1, "c")]),
    ]
    svg = dot_plot(rows, Axis("x", 0.0, 1.0))
    heights = [lines(svg, arm)[0][0][1] for arm in (1, 2, 3)]
    assert heights == sorted(heights)
    assert [text for text in texts(svg) if text.isalpha()] == ["x", "first", "second"]
    titles = [one.text for one in ET.fromstring(well_formed(svg)).iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["a", "b", "c"]


def test_labels_of_several_lines_do_not_run_into_each_other():
    label = "data set\ndetector\nfold"
    rows = [DotRow(f"{label} {arm}", [Dot(arm, 0.5, 0, 1, "")]) for arm in (1, 2)]
    svg = dot_plot(rows, Axis("x", 0.0, 1.0))
    first, second = (lines(svg, arm)[0][0][1] for arm in (1, 2))
    assert second - first >= 3 * 1.2 * LETTER_HEIGHT_PT


def test_what_is_drawn_of_an_arm_can_be_hidden_and_texts_are_escaped():
    svg = dot_plot([DotRow("<b>", [Dot(9, 0.5, 0.1, 0.9, "<i>&")])], Axis("x"))
    assert svg.count('<g class="arm-9">') == 2  # the dot and its interval
    assert "<b>" not in svg
    assert "<i>" not in svg


def test_zero_is_on_the_axis_where_it_means_something():
    assert "0" not in texts(dot_plot([DotRow("a", [Dot(0, 0.75, 0.7, 0.8, "")])], Axis("x")))
    assert "0" in texts(dot_plot([DotRow("a", [Dot(0, 0.75, 0.7, 0.8, "")])], Axis("x"), zero="no difference"))


def test_numbers_that_are_none_are_not_drawn():
    svg = dot_plot(
        [DotRow("a", [Dot(1, NAN, NAN, NAN, "no"), Dot(2, 0.5, NAN, NAN, "dot")]), DotRow("b", [])], Axis("x")
    )
    assert "no" not in svg.replace("none", "")
    assert ">b<" not in svg
    assert svg.count('<g class="arm-2">') == 1


def test_arms_beyond_the_colors_are_dashed_and_have_another_marker():
    first, again = (dot_plot([DotRow("a", [Dot(arm, 0.5, 0, 1, "t")])], Axis("x", 0.0, 1.0)) for arm in (0, 7))
    assert ("stroke-dasharray" in first, "stroke-dasharray" in again) == (False, True)
    marks = [re.findall(r'<path id="m[^"]+" d="([^"]+)"', svg)[-1] for svg in (first, again)]
    assert ["C" in mark for mark in marks] == [True, False]  # a circle, and what has corners
