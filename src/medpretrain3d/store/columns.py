"""Facts on the cases of a large store, a list per fact: parsed, checked and kept at a fraction of the cost of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, cast

from pydantic import AfterValidator, Field, StrictInt, StrictStr, with_config
from typing_extensions import TypedDict

from medpretrain3d.documents import SCHEMA, Text, Whole
from medpretrain3d.errors import UserError
from medpretrain3d.names import plain_names

_Ids = Annotated[list[StrictStr], AfterValidator(lambda ids: plain_names(ids, "case id"))]
_Byte = Annotated[StrictInt, Field(ge=0, lt=2**62)]


@with_config(SCHEMA)
class Columns(TypedDict):
    """A value per case; of `shape` three, of `counts` one per class, of `extents` six, one case after the other."""

    id: _Ids
    shape: list[Annotated[Whole, Field(ge=1)]]
    num_objects: list[Whole]
    counts: list[Whole]
    has_mask: list[bool]
    patient: list[Text | None]
    bytes: list[_Byte]
    voxels: list[Text]
    sha256: list[Text]
    container: list[Whole]
    extents: list[_Byte]


class ColumnRows(Mapping[str, dict[str, Any]]):
    """The row of each case by its id, made when it is asked for.

    Args:
        columns: as `to_columns` gives them.
        num_classes: of the store.
        containers: names of the containers.

    Raises:
        UserError: a column has another number of values than there are cases, or there is no such container.
    """

    def __init__(self, columns: Columns, num_classes: int, containers: Sequence[str]) -> None:
        self._columns = cast(Mapping[str, list[Any]], columns)
        self._containers = containers
        self._widths = _widths(num_classes)
        self._number = {case_id: number for number, case_id in enumerate(columns["id"])}
        for name, width in self._widths.items():
            wanted = width * len(columns["id"])
            if len(self._columns[name]) != wanted:
                raise UserError(f"columns.{name} has {len(self._columns[name])} values, wanted {wanted}")
        if max(columns["container"], default=-1) >= len(containers):
            raise UserError(f"names a container that is not among its {len(containers)}")

    def __getitem__(self, case_id: str) -> dict[str, Any]:
        number = self._number[case_id]
        row: dict[str, Any] = {}
        for name, width in self._widths.items():
            column = self._columns[name]
            row[name] = column[number * width : (number + 1) * width] if name in _SEVERAL else column[number]
        row["container"] = self._containers[row["container"]]
        return row

    def __contains__(self, case_id: object) -> bool:
        return case_id in self._number

    def __iter__(self) -> Iterator[str]:
        return iter(self._number)

    def __len__(self) -> int:
        return len(self._number)


def to_columns(rows: Sequence[Mapping[str, Any]], num_classes: int) -> tuple[dict[str, list[Any]], list[str]]:
    """Return the columns of rows whose cases lie in containers, and the names of these."""
    containers = sorted({row["container"] for row in rows})
    number_of = {name: number for number, name in enumerate(containers)}
    columns: dict[str, list[Any]] = {
        name: [value for row in rows for value in row[name]] if name in _SEVERAL else [row[name] for row in rows]
        for name in _widths(num_classes)
    }
    return columns | {"container": [number_of[name] for name in columns["container"]]}, containers


_SEVERAL = ("shape", "counts", "extents")


def _widths(num_classes: int) -> dict[str, int]:
    """Return how many values of each column belong to one case."""
    return {**dict.fromkeys(Columns.__annotations__, 1), "shape": 3, "counts": num_classes, "extents": 6}
