"""CSV tables: read from whatever program wrote them, written so that no spreadsheet takes a name for a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from medpretrain3d.documents.text import LARGE, read_text
from medpretrain3d.errors import UserError

MAX_CELL = 2**17
"""Characters of a cell: more is a quotation mark that nobody closed."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_FORMULA = "=+-@\t\r"
"""What a spreadsheet takes a cell for a formula by, where it comes first."""
NA_VALUES = frozenset({"nan", "na", "n/a", "<na>", "null"})
"""What pandas, R and databases write where nothing is known, in lower case: as a name it would be one class or one
patient of all that have none. `none` is not among them, which as a label means something."""

Row = dict[str, str]
"""Cells by the name of their column."""


def read_rows(path: Path, advice: str, max_bytes: int = LARGE) -> list[list[str]]:
    """Return the cells of a CSV file, row by row, in UTF-8 with or without a mark at the beginning.

    Where the first line has no comma, semicolons or tabs part the cells, as where decimals have commas.

    An apostrophe that `csv_text` put before a text is taken away.

    Raises:
        UserError: the file is missing, too large, not in UTF-8, or no CSV; ends with the advice.
    """
    return _parsed(path, read_text(path, advice, max_bytes), advice)


def read_table(
    path: Path,
    columns: Iterable[str],
    advice: str,
    max_bytes: int = LARGE,
    drop_torn: bool = False,
    na_values: Collection[str] = (),
) -> list[Row]:
    """Return the rows of a CSV file by column name, stripped of blanks; without empty rows.

    A row may be shorter than the header (the rest is empty), and longer by empty cells.

    Args:
        path: the file.
        columns: those that have to be there.
        advice: what to do about a bad file.
        max_bytes: a larger file is refused.
        drop_torn: whether a last line that lacks cells and its end, as a crash tears it, is left out.
        na_values: cells that mean an empty one, in lower case: `NA_VALUES` for tables of names that people bring.

    Raises:
        UserError: as `read_rows`, or a column is missing or there twice, or a row has more cells than the header.
    """
    text = read_text(path, advice, max_bytes)
    found = _parsed(path, text, advice)
    if drop_torn and found and not text.endswith(("\n", "\r")) and len(found[-1]) < len(found[0]):
        del found[-1]
    rows = iter(found)
    names = [name.strip() for name in next(rows, [])]
    missing = [name for name in columns if name not in names]
    if missing:
        shown = ", ".join(names)[:200] or "nothing"
        raise UserError(f"{path}: lacks the column {missing[0]}; has {shown}")
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise UserError(f"{path}: has the column {twice[0]} twice; {advice}")
    return list(_by_name(path, names, rows, advice, na_values))


def _parsed(path: Path, text: str, advice: str) -> list[list[str]]:
    csv.field_size_limit(MAX_CELL)
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
        return [[_original(cell) for cell in row] for row in rows]
    except csv.Error as error:
        raise UserError(f"{path}: is no CSV table ({error}); {advice}") from error


def _delimiter(text: str) -> str:
    header = next((line for line in text.splitlines() if line.strip()), "")
    return "," if "," in header else next((one for one in ";\t" if one in header), ",")


def _by_name(
    path: Path, names: Sequence[str], rows: Iterable[Sequence[str]], advice: str, na_values: Collection[str]
) -> Iterator[Row]:
    for number, row in enumerate(rows, start=2):
        cells = ["" if (cell := text.strip()).lower() in na_values else cell for text in row]
        if not any(cells):
            continue
        if any(cells[len(names) :]):
            raise UserError(f"{path}: row {number} has {len(cells)} cells, the header {len(names)}; {advice}")
        cells += [""] * (len(names) - len(cells))
        yield {name: cell for name, cell in zip(names, cells, strict=False) if name}


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV. A text that a spreadsheet would take for a formula, or that begins with an apostrophe, gets an
    apostrophe in front, by which spreadsheets mark texts; numbers stay numbers."""
    lines = io.StringIO(newline="")
    writer = csv.writer(lines, lineterminator="\r\n")  # quotes a cell that holds either of the two
    parts = []
    for row in [columns, *rows]:
        writer.writerow([_neutral(cell) for cell in row])
        parts.append(lines.getvalue().removesuffix("\r\n"))
        lines.seek(0)
        lines.truncate()
    return "".join(f"{part}\n" for part in parts)


def _neutral(cell: Any) -> Any:
    is_risky = isinstance(cell, str) and cell[:1] in (*_FORMULA, "'") and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if cell and is_risky else cell


def _original(cell: str) -> str:
    return cell[1:] if cell[:1] == "'" and cell[1:2] in (*_FORMULA, "'") else cell
