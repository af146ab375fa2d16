"""Style of all plots: colors, letters, and how a plot is written to a file or into a page."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpretrain3d.atomic import finished_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito (2008): apart for every kind of color blindness.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
ARM_COLORS = ("#6b7280", "#0072b3", "#d55e01", "#009e74", "#b85c94", "#c48a00", "#3a9bd9")
"""Of the arms of a study, the baseline first, in grey."""
LINE_STYLES = ("-", "--", ":", "-.")
"""Arms beyond the colors take them again with the next of these."""
MARKERS = ("o", "s", "D", "^")
"""Of dots, which may have no line beside them."""
INK, PALE = "#2b2f36", "#d9dce1"
LETTER_HEIGHT_PT = 9.5
MARGIN_PT, MARGIN_BELOW_PT = 15, 36
STYLE: Any = {
    "font.size": LETTER_HEIGHT_PT,
    "font.family": "sans-serif",
    "text.parse_math": False,  # a class or an arm may be called `$x$`
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "svg.fonttype": "none",
    "svg.hashsalt": "medpretrain3d",  # the same numbers give the same file
}
PAGE_COLORS = {INK: "--soft", PALE: "--rule", **{color: f"--arm-{i}" for i, color in enumerate(ARM_COLORS)}}
"""Variables of a page's style sheet that stand for colors, so that a plot follows its light or dark theme."""


def text_width(texts: Sequence[str]) -> float:
    """Return about how wide the widest of some texts is, in points; the page's letters are not those known here."""
    return 0.6 * LETTER_HEIGHT_PT * max(map(len, texts), default=0)


def set_margins(figure: Figure, left_pt: float, below_pt: float) -> None:
    """Leave room for labels on the left and below the only axes of a figure.

    A layout engine measures every letter, which takes a third of the time of a plot.
    """
    width, height = (72 * edge for edge in figure.get_size_inches())
    right, top = 1 - MARGIN_PT / width, 1 - MARGIN_PT / height
    figure.subplots_adjust(min(left_pt / width, 0.6), below_pt / height, right, top)


def arm_style(arm: int) -> tuple[str, str, str]:
    """Return color, line style and marker of an arm, by its place among the arms."""
    turn = arm // len(ARM_COLORS)
    return ARM_COLORS[arm % len(ARM_COLORS)], LINE_STYLES[turn % len(LINE_STYLES)], MARKERS[turn % len(MARKERS)]


def arm_tag(arm: int, has_tip: bool = False) -> str:
    """Return the `gid` of what is drawn of an arm, see `with_arms_and_tips`."""
    return f"arm-{arm}{'-tip' if has_tip else ''}"


def with_arms_and_tips(svg: str, tips: Sequence[str]) -> str:
    """Return a drawing whose tagged parts have a class `arm-N`, by which a page hides an arm, and say their tips.

    Args:
        svg: of `inline_svg`.
        tips: of the parts that have one, in the order of drawing.
    """
    left = iter(tips)
    return re.sub(
        r'<g id="(arm-\d+)(-tip)?">',
        lambda found: f'<g class="{found[1]}">' + (f"<title>{escape(next(left))}</title>" if found[2] else ""),
        svg,
    )


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG or SVG, by the ending of the path, completely or not at all.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    ending = path.suffix.lstrip(".")
    with finished_file(path) as unfinished:
        figure.savefig(unfinished, format=ending, dpi=200, metadata={"Date": None} if ending == "svg" else None)


def inline_svg(figure: Figure, label: str) -> str:
    """Return a figure as an `<svg>` element for a page, in the colors of the page around it.

    Args:
        figure: drawn in `INK`, `PALE` and `ARM_COLORS`.
        label: read aloud to those who do not see it; escaped for XML.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    file = io.StringIO()
    # `savefig` draws everything twice, once to see how large it is: half of the time of a page of 50 plots.
    canvas: Any = FigureCanvasSVG(figure)
    canvas.print_svg(file, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    for color, variable in PAGE_COLORS.items():
        body = body.replace(color, f"var({variable})")
    body = re.sub(r' id="[a-zA-Z0-9.]+_\d+"', "", body)  # counted in each plot anew, and one page holds many
    body = body.replace("xlink:href", "href")
    return f'<svg {box[0]} role="img" aria-label="{label}">{body}'
