"""Declarations of a study: what was expected, and when it was written down, kept beside its runs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pydantic import with_config
from typing_extensions import TypedDict

from medpretrain3d.documents import SCHEMA, Artifact, Text
from medpretrain3d.errors import UserError
from medpretrain3d.statistics.registration import Registration, declaration_sha256, registration_note
from medpretrain3d.study.design import Study
from medpretrain3d.study.run import Run

FILE = "declarations.json"


@with_config(SCHEMA)
class _Entry(TypedDict):
    sha256: Text
    date: Text


@with_config(SCHEMA)
class _Declarations(TypedDict):
    declarations: list[_Entry]


DOCUMENT = Artifact(
    "medpretrain3d-declarations", 1, _Declarations, "take it away; what is declared now gets a new date"
)


def declare(study: Study) -> None:
    """Write down with the date what a study's document declares, if that is new.

    Raises:
        UserError: the earlier declarations cannot be read.
    """
    known = read_declarations(study)
    now = _hash(study)
    if not known or known[-1].sha256 != now:
        entries = [*known, Registration(now, datetime.now(UTC).replace(microsecond=0))]
        plain = [{"sha256": one.sha256, "date": one.date.isoformat()} for one in entries]
        DOCUMENT.write(study.folder / FILE, {"declarations": plain}, indent=1)


def read_declarations(study: Study) -> list[Registration]:
    """Return everything that a study ever declared, in the order in which it was.

    Raises:
        UserError: the file is damaged.
    """
    path = study.folder / FILE
    if not path.is_file():
        return []
    try:
        return [
            Registration(one["sha256"], datetime.fromisoformat(one["date"]))
            for one in DOCUMENT.read(path)["declarations"]
        ]
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: holds a date that is none ({error}); {DOCUMENT.advice}") from error


def declaration_note(study: Study, runs: list[Run]) -> str:
    """Return the sentence of a report: what was declared when, and whether it was changed once there were results."""
    known = read_declarations(study)
    if not known:
        return "hypotheses, primary metric and delta were not declared before this report."
    tested = [file.stat().st_mtime for file in map(_metrics, runs) if file.is_file()]
    first = datetime.fromtimestamp(min(tested), UTC) if tested else None
    return registration_note(known, first)


def _metrics(run: Run) -> Path:
    return run.folder / "test" / "metrics.json"


def _hash(study: Study) -> str:
    own = study.declaration
    primary = {"metric": own.metric.name, "labels": own.labels, "baseline": study.baseline.name}
    return declaration_sha256([str(one) for one in own.hypotheses], primary, own.delta)
