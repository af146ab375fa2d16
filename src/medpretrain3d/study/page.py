"""A report as one HTML page, and its plots as files."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader
from markupsafe import Markup

from medpretrain3d.atomic import write_text
from medpretrain3d.study.report import Report
from medpretrain3d.visualization.case_page import page_data


def write_report(report: Report, path: Path) -> None:
    """Write the page: one file that needs no other and asks no network.

    Raises:
        UserError: the file cannot be written.
    """
    environment = _environment()
    script = "".join(_source(environment, name) for name in ("viewer.js.jinja", "report.js.jinja"))
    known: dict[str, Any] = {field.name: getattr(report, field.name) for field in fields(report)}
    # The page runs this script and no other, whatever a name in it says.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment.get_template("report.html.jinja")
    viewed = [{"title": one.title, "why": one.why, "data": one.data} for one in report.viewed_cases]
    known |= {"script": Markup(script), "script_sha256": digest, "viewed_cases_data": viewed}
    write_text(Path(path), page.render(known))


def write_figures(report: Report, folder: Path) -> list[Path]:
    """Write every plot as an SVG file of its own, with legend and style, named after its heading.

    Raises:
        UserError: a file cannot be written.
    """
    template = _environment().get_template("figure.svg.jinja")
    written: list[Path] = []
    for figure in report.figures:
        name = re.sub(r"[^a-z0-9]+", "_", figure.title.lower()).strip("_")
        path = Path(folder) / f"{name}.svg"
        written.append(path)
        write_text(path, template.render(figure=figure, width=figure.size[0], height=figure.size[1]))
    return written


def _environment() -> Environment:
    loader = ChoiceLoader([PackageLoader("medpretrain3d", folder) for folder in ("study", "visualization")])
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True)
    environment.lstrip_blocks = True
    environment.filters["drawing"] = Markup  # our own SVG, whose texts are escaped where it is made
    environment.filters["data"] = page_data
    return environment


def _source(environment: Environment, name: str) -> str:
    """Return a file of the page as it stands."""
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
