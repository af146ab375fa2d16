"""Declarations of a study: what was expected, and when it was written down, kept beside its runs and kept results."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from medpretrain3d.atomic.disk_errors import disk_errors
from medpretrain3d.documents import SCHEMA, Artifact, Text
from medpretrain3d.errors import UserError
from medpretrain3d.lines import counted
from medpretrain3d.statistics.registration import (
    Registration,
    declaration_sha256,
    declared_before,
    registration_note,
)
from medpretrain3d.study.declared_design import DeclaredDesign, design_note, design_parts
from medpretrain3d.study.design import Study
from medpretrain3d.study.record import METRICS
from medpretrain3d.study.records import Records
from medpretrain3d.study.result_date import parse_date, result_date
from medpretrain3d.study.run import Run

FILE = "declarations.json"


@with_config(SCHEMA)
class _Entry(TypedDict):
    sha256: Text
    date: Text


@with_config(SCHEMA)
class _Design(TypedDict):
    date: Text
    parts: dict[str, list[Text]]


@with_config(SCHEMA)
class _Declarations(TypedDict):
    declarations: list[_Entry]
    designs: NotRequired[list[_Design]]  # of version 1 none


DOCUMENT = Artifact(
    "medpretrain3d-declarations", 2, _Declarations, "take it away; what is declared now gets a new date"
)


def declare(study: Study) -> None:
    """Write down with the date what a study's document declares and runs, if new; beside its kept results as well.

    Raises:
        UserError: the earlier declarations cannot be read, or the disk refuses.
    """
    known, designs = read_declarations(study), read_designs(study)
    now, parts, date = _hash(study), design_parts(study), datetime.now(UTC)
    if not known or known[-1].sha256 != now:
        known.append(Registration(now, date))
    if not designs or designs[-1].parts != parts:
        designs.append(DeclaredDesign(date, parts))
    plain = {
        "declarations": [{"sha256": one.sha256, "date": one.date.isoformat()} for one in known],
        "designs": [{"date": one.date.isoformat(), "parts": one.parts} for one in designs],
    }
    for path in _places(study):
        if not path.is_file() or _read(path) != known or _read_designs(path) != designs:
            with disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            DOCUMENT.write(path, plain, indent=1)


def read_declarations(study: Study) -> list[Registration]:
    """Return everything that a study ever declared, here or where its results were kept, in the order in which it was.

    Raises:
        UserError: a file is damaged.
    """
    found = sorted((one for path in _places(study) if path.is_file() for one in _read(path)), key=lambda one: one.date)
    # What two clones declared alike was declared by the first of them, and is no change by the second.
    return [one for place, one in enumerate(found) if not place or found[place - 1].sha256 != one.sha256]


def read_designs(study: Study) -> list[DeclaredDesign]:
    """Return what a study was ever to run, as `read_declarations` does what it declared; nothing of earlier versions.

    Raises:
        UserError: a file is damaged.
    """
    paths = [path for path in _places(study) if path.is_file()]
    found = sorted((one for path in paths for one in _read_designs(path)), key=lambda one: one.date)
    return [one for place, one in enumerate(found) if not place or found[place - 1].parts != one.parts]


def declaration_note(study: Study, runs: list[Run]) -> str:
    """Return the sentence of a report: what was declared when, and whether it was changed once there were results.

    Args:
        study: as its document is now, which may not be what was declared.
        runs: of its jobs that are done.
    """
    known, now = read_declarations(study), _hash(study)
    what = "hypotheses, primary metric and delta"
    if not known:
        return f"{what} were not declared before this report."
    last = known[-1]
    declared = f"(sha256 {last.sha256[:12]}) were declared on {last.date:%Y-%m-%d %H:%M}"
    if last.sha256 != now:
        return (
            f"{what} of this report (sha256 {now[:12]}) were NOT declared: document or --set changed them since; the "
            f"last ones {declared}; all is exploratory."
        )
    dates = _result_dates(study, runs)
    first = min((date for date in dates if date is not None), default=None)
    num_unknown = dates.count(None)
    if num_unknown and declared_before(known, first):
        results = f"{num_unknown} of {counted(len(dates), 'result')}"
        return (
            f"{what} {declared}; the date of {results} is NOT known, since an earlier version kept none: nothing here "
            "counts as declared beforehand; all is exploratory."
        )
    note = registration_note(known, first)
    return note if first is None else f"{note} {design_note(read_designs(study), first, design_parts(study))}"


def _result_dates(study: Study, runs: list[Run]) -> list[datetime | None]:
    """Return when each tested run had its numbers, None where nothing says it."""
    known = Records(study).result_dates()
    tested = [run.folder for run in runs if (run.folder / METRICS).is_file()]
    return [
        known[folder.resolve()]
        if folder.resolve() in known
        else result_date(folder, "finetune", folder.with_suffix(".done"))
        for folder in tested
    ]


def _places(study: Study) -> list[Path]:
    kept = [study.results / f"{study.name}.{FILE}"] if study.results is not None else []  # which studies may share
    return [study.folder / FILE, *kept]


def _read(path: Path) -> list[Registration]:
    return [Registration(one["sha256"], _date(one["date"], path)) for one in DOCUMENT.read(path)["declarations"]]


def _read_designs(path: Path) -> list[DeclaredDesign]:
    return [DeclaredDesign(_date(one["date"], path), one["parts"]) for one in DOCUMENT.read(path).get("designs", [])]


def _date(text: str, path: Path) -> datetime:
    try:
        return parse_date(text)
    except ValueError as error:
        raise UserError(f"{path}: holds a date that is none ({error}); {DOCUMENT.advice}") from error


def _hash(study: Study) -> str:
    own = study.declaration
    primary = {"metric": own.metric.name, "labels": own.labels, "baseline": study.baseline.name}
    return declaration_sha256([str(one) for one in own.hypotheses], primary, own.delta)
