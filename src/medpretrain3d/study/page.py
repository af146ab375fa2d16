"""A report as one HTML page, and its plots as files."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import fields
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader
from markupsafe import Markup

from medpretrain3d.atomic import write_text
from medpretrain3d.study.report import Report
from medpretrain3d.study.report_files import file_stems, write_files
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


def write_figures(report: Report, folder: Path, page: str = "report") -> list[Path]:
    """Write every plot as an SVG file of its own, with legend and style, named after its heading.

    Args:
        report: the report.
        folder: which may hold plots of other reports, and other files.
        page: name of its page; what an earlier report of this name wrote goes, see `write_files`.

    Raises:
        UserError: a file cannot be written.
    """
    template = _environment().get_template("figure.svg.jinja")
    stems = file_stems(figure.title for figure in report.figures)
    drawn = [template.render(figure=one, width=one.size[0], height=one.size[1]) for one in report.figures]
    return write_files(folder, {f"{stem}.svg": svg for stem, svg in zip(stems, drawn, strict=True)}, page)


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
