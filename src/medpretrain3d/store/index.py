"""The index of a store, `store.json`: classes, spacing, fingerprint, and of each case what is known without opening it.

Where cases lie in containers, the index holds a list per fact instead of an object per case, and where the files of
each case are: 50,000 cases are read in a quarter of a second instead of one and a quarter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, with_config
from typing_extensions import TypedDict

from medpretrain3d.documents import LARGE, SCHEMA, Artifact, CaseId, Name, Number, Text, Whole, parse_json, read_bytes
from medpretrain3d.errors import UserError
from medpretrain3d.store.case_files import CASES
from medpretrain3d.store.columns import ColumnRows, Columns, to_columns
from medpretrain3d.store.container import SUFFIX
from medpretrain3d.store.grid import Spacing
from medpretrain3d.store.layout import CONTAINERS
from medpretrain3d.store.sidecar import VERSION

INDEX = "store.json"
COLUMNS_VERSION = 5
"""Of an index with a list per fact."""

_Step = Annotated[Number, Field(gt=0)]
_ADVICE = "prepare the store again"


@with_config(SCHEMA)
class _Row(TypedDict):
    id: CaseId
    shape: Annotated[list[Annotated[Whole, Field(ge=1)]], Field(min_length=3, max_length=3)]
    num_objects: Whole
    counts: list[Whole]
    has_mask: bool
    patient: Text | None
    voxels: Text
    sha256: Text


@with_config(SCHEMA)
class _Facts(TypedDict):
    classes: list[Name]
    spacing_mm: Annotated[list[_Step], Field(min_length=3, max_length=3)] | None
    channel_names: list[Name]
    fingerprint: Text
    duplicates: list[list[Text]]


@with_config(SCHEMA)
class _Index(_Facts):
    """Schema of `store.json`."""

    cases: list[_Row]


@with_config(SCHEMA)
class _ColumnIndex(_Facts):
    """Schema of the `store.json` of a store of containers."""

    containers: list[CaseId]
    columns: Columns


_DAMAGED = f"this is not the index of a store, {_ADVICE}"
INDEX_DOCUMENT = Artifact("medpretrain3d-store", VERSION, _Index, _DAMAGED, VERSION, LARGE)
_COLUMN_DOCUMENT = Artifact("medpretrain3d-store", COLUMNS_VERSION, _ColumnIndex, _DAMAGED, COLUMNS_VERSION, LARGE)


class StoreIndex:
    """What the index of a store says, read from either kind.

    Args:
        facts: on the store.
        rows: of each case, by its id.
    """

    def __init__(self, facts: _Facts, rows: Mapping[str, Mapping[str, Any]]) -> None:
        self.classes = tuple(facts["classes"])
        spacing_mm = facts["spacing_mm"]
        self.spacing_mm: Spacing | None = None if spacing_mm is None else (spacing_mm[0], spacing_mm[1], spacing_mm[2])
        self.channel_names = tuple(facts["channel_names"])
        self.fingerprint = facts["fingerprint"]
        self.duplicates = tuple(tuple(ids) for ids in facts["duplicates"])
        self.facts = {name: facts[name] for name in _Facts.__annotations__}  # type: ignore[literal-required]  # its own keys
        self.rows = rows


def write_index_file(path: Path, facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the index of a store, by columns where its cases lie in containers.

    Args:
        path: the store's folder.
        facts: `classes`, `spacing_mm`, `channel_names`, `fingerprint` and `duplicates`.
        rows: of every case, as `index_row` gives them, with counts of all classes.
    """
    counted = {
        **{name: facts[name] for name in ("classes", "spacing_mm", "channel_names")},
        "num_cases": len(rows),
        **{name: facts[name] for name in ("fingerprint", "duplicates")},
    }
    if any("container" in row for row in rows):
        columns, containers = to_columns(rows, len(facts["classes"]))
        _COLUMN_DOCUMENT.write(path / INDEX, {**counted, "containers": containers, "columns": columns})
    else:
        INDEX_DOCUMENT.write(path / INDEX, {**counted, "cases": list(rows)})


def fingerprint(classes: Sequence[str], sha256_of: Iterable[tuple[str, str]]) -> str:
    """Return sha256 over the class names and id and content hash of every case, whatever their order."""
    lines = [json.dumps(list(classes)), *sorted(f"{case_id} {sha256}" for case_id, sha256 in sha256_of)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_index(path: Path) -> StoreIndex:
    """Read the index of a store.

    Raises:
        UserError: the folder is no store, an unfinished one, or one written by a newer version; the index is damaged.
    """
    file = path / INDEX
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; wanted a store, written by `medpretrain3d prepare RAW {path}`")
    if not file.is_file() and ((path / CASES).is_dir() or (path / CONTAINERS).is_dir()):
        raise UserError(f"{path}: its preparation did not finish; call `medpretrain3d prepare` again, it goes on")
    if not file.is_file():
        raise UserError(f"{path}: has no {INDEX}, so it is no store; make one with `medpretrain3d prepare RAW STORE`")
    document = parse_json(read_bytes(file, _DAMAGED, LARGE), str(file), object, _DAMAGED)
    if isinstance(document, dict) and "columns" in document:
        return _of_columns(_COLUMN_DOCUMENT.check(document, str(file)), str(file))
    return _of_rows(INDEX_DOCUMENT.check(document, str(file)), str(file))


def _of_rows(index: _Index, place: str) -> StoreIndex:
    ids = [row["id"] for row in index["cases"]]
    _check(index, ids, [row["sha256"] for row in index["cases"]], place)
    for row in index["cases"]:
        if len(row["counts"]) < len(index["classes"]):
            raise UserError(
                f"{place}: case '{row['id']}' counts objects of {len(row['counts'])} classes, there are "
                f"{len(index['classes'])}; {_ADVICE}"
            )
    return StoreIndex(index, {row["id"]: dict(row) for row in index["cases"]})


def _of_columns(index: _ColumnIndex, place: str) -> StoreIndex:
    columns = index["columns"]
    try:
        rows = ColumnRows(columns, len(index["classes"]), index["containers"])
    except UserError as error:
        raise UserError(f"{place}: {error}; {_ADVICE}") from error
    if not all(name.endswith(SUFFIX) for name in index["containers"]):
        raise UserError(f"{place}: a container is not called *{SUFFIX}; {_ADVICE}")
    _check(index, columns["id"], columns["sha256"], place)
    return StoreIndex(index, rows)


def _check(index: _Facts, ids: Sequence[str], hashes: Sequence[str], place: str) -> None:
    for what, names in (("case", ids), ("class", index["classes"])):
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{place}: {what} '{twice}' is listed twice; {_ADVICE}")
    strangers = {case_id for group in index["duplicates"] for case_id in group} - set(ids)
    if strangers:
        raise UserError(f"{place}: duplicates name '{min(strangers)}', which is no case of it; {_ADVICE}")
    # Classes and hashes of cases are in it, so a class that was taken away by hand is noticed.
    if fingerprint(index["classes"], zip(ids, hashes, strict=True)) != index["fingerprint"]:
        raise UserError(f"{place}: classes or cases are not those its fingerprint was taken of; {_ADVICE}")
