from __future__ import annotations

import pytest

from medpretrain3d.visualization.axes import Axis
from medpretrain3d.visualization.dot_plot import Dot, DotRow, dot_plot
from medpretrain3d.visualization.line_plot import Series, line_plot
from medpretrain3d.visualization.strip_plot import StripRow, strip_plot

from .test_line_plot import texts

DRAWN = {
    "dot_plot": lambda name: dot_plot([DotRow(name, [Dot(1, 0.5, 0, 1, name)])], Axis(name)),
    "line_plot": lambda name: line_plot([Series(name, 0, [0, 1], [0.0, 1.0])], Axis(name), Axis(name)),
    "strip_plot": lambda name: strip_plot([StripRow(name, [1.0, 2.0])], Axis(name)),
}


@pytest.mark.parametrize("plot", DRAWN)
@pytest.mark.parametrize("name", [r"$\foo$", "a$b$c", "$5 & <$6", "x_1^2", '"quoted"'])
def test_names_of_classes_and_arms_are_written_as_they_are(plot, name):
    """Two dollar signs are a formula to Matplotlib, and an error where they are none."""
    assert texts(DRAWN[plot](name)).count(name) == 2  # of an axis and a row, or of both axes
