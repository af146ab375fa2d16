"""Cases to look at: a picture of each, and one page with all of them that loads nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from medpretrain3d.atomic import write_text
from medpretrain3d.documents import json_text
from medpretrain3d.visualization.drawing import Rgb
from medpretrain3d.visualization.pictures import save_png
from medpretrain3d.visualization.viewed_case import ViewedCase

PAGE = "index.html"


def write_cases(
    folder: Path, title: str, about: str, cases: Sequence[ViewedCase], pictures: Mapping[str, Rgb], least: float
) -> Path:
    """Write `<case>.png` of each case, and `index.html`, a viewer of their slices and boxes in one file.

    Args:
        folder: where they go.
        title: heading of the page.
        about: a sentence below it.
        cases: in the order in which they are offered.
        pictures: (H, W, 3) by case.
        least: score from which boxes are shown at first.

    Returns:
        Path of the page.

    Raises:
        UserError: a file cannot be written.
    """
    for case, picture in pictures.items():
        save_png(folder / f"{case}.png", picture)
    environment = Environment(loader=PackageLoader("medpretrain3d", "visualization"), autoescape=True)
    assert environment.loader is not None
    parts = (environment.loader.get_source(environment, name)[0] for name in ("viewer.js.jinja", "cases.js.jinja"))
    script = "".join(parts)
    environment.filters["data"] = page_data
    page = environment.get_template("cases.html.jinja")
    text = page.render(
        title=title,
        about=about,
        least=least,
        zoom=1,
        script=Markup(script),
        # The page runs this script and no other, whatever a name in it says.
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        viewed_cases_data=[{"title": one.title, "why": one.why, "data": one.data} for one in cases],
    )
    write_text(folder / PAGE, text)
    return folder / PAGE


def page_data(value: object) -> Markup:
    """Return plain data for a page: JSON that cannot end its element."""
    text = json_text(value).strip()
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
