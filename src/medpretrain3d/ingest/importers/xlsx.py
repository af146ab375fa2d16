"""The first sheet of an Excel workbook, as rows of text."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from medpretrain3d.errors import UserError

MAX_BYTES = 2**28
"""Unpacked; the tables of 922 patients have 2 MB."""
MAX_ROWS = 2**20
"""Of a sheet, as Excel has it: a row that names a later place would be padded up to it."""


def read_xlsx(path: Path, columns: list[str]) -> list[dict[str, str]]:
    """Read all rows whose first cell is filled; the first row names the columns.

    Raises:
        UserError: the file is damaged or too large, a column is missing, or openpyxl is not installed.
    """
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise UserError(
            f'{path}: pip install "medpretrain3d[tables]" to read it, or export it as {path.stem}.csv beside it'
        ) from error
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise ValueError(f"it unpacks to more than {MAX_BYTES:,} bytes")
            if archive.testzip() is not None:
                raise ValueError("a checksum is wrong")
        sheet = load_workbook(path, read_only=True, data_only=True).worksheets[0]
        rows = _rows(sheet)
    except MemoryError:
        raise
    except Exception as error:  # openpyxl passes on whatever its parsers say of a damaged file: a dozen classes
        message = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: not readable as an Excel workbook ({message}); download it again") from error
    names = [str(name).strip() for name in rows[0]] if rows else []
    missing = [column for column in columns if column not in names]
    if missing:
        raise UserError(f"{path}: lacks the column {missing[0]}; has {', '.join(names)[:500]}")
    # Rows may end early where their last cells are empty.
    filled = (row for row in rows[1:] if row and row[0] is not None)
    return [{name: _text(row[i]) if i < len(row) else "" for i, name in enumerate(names)} for row in filled]


def _rows(sheet: Any) -> list[tuple[Any, ...]]:
    sheet.reset_dimensions()  # what the file says of them need not be so, and would cut rows off
    found = []
    for row in sheet.iter_rows(values_only=True):
        found.append(row)
        if len(found) > MAX_ROWS:
            raise ValueError(f"more than {MAX_ROWS:,} rows")
    return found


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()
