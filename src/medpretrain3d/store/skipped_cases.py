"""Why a case cannot be used: a kind that a program can count, a sentence that says what to do, and a note on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args

from pydantic import with_config
from typing_extensions import TypedDict

from medpretrain3d.atomic import write_text
from medpretrain3d.documents import SCHEMA, Text, json_text, read_json
from medpretrain3d.errors import UserError

SKIP_RECORDS = "skipped"
"""Folder of a store with a note per case that cannot be used."""

RETRIED = "retried"
"""Key of a note that does not hold on, since it was not the case that failed."""

Kind = Literal[
    "unreadable",  # missing, empty, truncated, damaged, of no known format
    "claim",  # the header claims more than the file holds, or than is ever read
    "not finite",  # NaN or infinite voxels
    "geometry",  # impossible or implausible spacing, orientation or affine
    "size",  # too few or too many voxels for a scan
    "slices",  # missing, doubled or unevenly spaced slices
    "gantry tilt",  # slices shifted against each other
    "values",  # intensities or labels of the wrong kind
    "no tissue",  # nothing but air or one value
    "channels",  # other channels than the data set says
    "mask",  # the mask lies elsewhere than the image
    "annotation",  # objects, classes or boxes that contradict image or table
    "layout",  # a file that the data set names or needs is not there
]
KINDS: tuple[Kind, ...] = get_args(Kind)


@with_config(SCHEMA)
class SkipRecord(TypedDict):
    """Schema of the note about a case that cannot be used, beside its source files and options."""

    case: Text
    file: Text
    kind: Kind
    reason: str


class InvalidCaseError(UserError):
    """A case that is left out while the others go on.

    Args:
        text: what it got, what was wanted, what to do; never free text from a header, which may name a patient.
        kind: by which the summary counts.
        below: further lines for whoever is at the terminal; no note keeps them.
    """

    def __init__(self, text: str, kind: Kind = "unreadable", below: str = "") -> None:
        super().__init__(text, below)
        self.kind = kind


class UndecodablePixelsError(InvalidCaseError):
    """Pixels that cannot be decoded: they are damaged, or a library that this machine does not have would."""


def is_of_the_machine(error: BaseException) -> bool:
    """Return whether a case may be usable elsewhere or later: memory, a disk, its rights or a decoder failed it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError | UndecodablePixelsError) or (isinstance(cause, OSError) and cause.errno):
            return True  # errors without a number are those of readers, about what a file holds
        cause = cause.__cause__
    return False


def skip_record_path(store: Path, case_id: str) -> Path:
    """Return the path of the note about a case that cannot be used."""
    return Path(store) / SKIP_RECORDS / f"{case_id}.json"


def write_skip_record(
    store: Path, case_id: str, file: str, error: UserError, facts: Mapping[str, Any], is_retried: bool = False
) -> dict[str, Any]:
    """Note why a case cannot be used, and from which files and options that follows; returns the note.

    Args:
        store: its folder.
        case_id: the case.
        file: name of its file.
        error: why.
        facts: files and options, by which the note is known to hold on.
        is_retried: whether the next call tries the case again whatever the facts.
    """
    kind = error.kind if isinstance(error, InvalidCaseError) else "annotation"
    note = {"case": case_id, "file": file, "kind": kind, "reason": str(error).splitlines()[0], **facts}
    if is_retried:
        note[RETRIED] = True
    write_text(skip_record_path(store, case_id), json_text(note, indent=1))
    return note


def read_skip_record(store: Path, case_id: str) -> dict[str, Any] | None:
    """Return the note about a case; None where there is none, or a damaged one."""
    try:
        note = read_json(skip_record_path(store, case_id), SkipRecord, "it is made again")
    except UserError:
        return None
    return cast(dict[str, Any], note)
