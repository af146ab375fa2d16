"""Files and folders of a raw data set: which are scans, which case they belong to, and what the tree looks like."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medpretrain3d.documents import LARGE, NA_VALUES, Row, read_table
from medpretrain3d.documents import read_json as read_document
from medpretrain3d.errors import UserError
from medpretrain3d.store.readers import volume_stem, walk


def dicom_series(folder: Path) -> list[Path]:
    """Return every folder at any depth, itself included, that holds .dcm files, in order."""
    return sorted({path.parent for path in find_files(folder, "*.dcm")})


def find_files(folder: Path, pattern: str) -> list[Path]:
    """Return every file at any depth whose path ends as the pattern says (`case_*/*.xml`), in order; see `walk`."""
    return sorted(path for path in walk(folder) if path.match(pattern))


def by_stem(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Return files by their names without ending, whatever folders they lie in."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        found[volume_stem(path)].append(path)
    return dict(found)


def twice(raw: Path, files: Sequence[Path]) -> str:
    """Return the error message for several files of one name; empty where there is one, or none."""
    if len(files) < 2:
        return ""
    message = " and ".join(path.relative_to(raw).as_posix() for path in files[:2])
    return f"{len(files)} files of one name, {message}; keep one"


def below(root: Path, name: str) -> Path:
    """Return a path that a file of the data set names, which must lie below the data set's folder.

    Raises:
        UserError: it is absolute or leads out of the folder.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise UserError(f"{root}: names the file {name!r}, wanted a path below this folder; correct it")
    return root / path


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        UserError: the file is missing or damaged.
    """
    return read_document(path, object, "correct it, or download it again", LARGE)


def read_csv(path: Path, columns: Iterable[str] = ()) -> list[Row]:
    """Return the rows of a CSV file by column name, stripped; empty rows are left out.

    Raises:
        UserError: the file is missing, no text, or lacks a column.
    """
    return read_table(path, columns, "correct it, or export it again as CSV in UTF-8", na_values=NA_VALUES)


def number(path: Path, row: Mapping[str, str], column: str) -> float:
    """Return a number out of a row of a CSV file; its decimals may stand behind a comma.

    Raises:
        UserError: it is none, or not finite.
    """
    text = row.get(column, "")
    try:
        value = float(text.replace(",", ".") if re.fullmatch(r"[+-]?\d+,\d+", text) else text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{path}: {column} is {text!r}, wanted a number; row {row}")
    return value


def whole(path: Path, row: Mapping[str, str], column: str) -> int:
    """Return a whole number out of a row of a CSV file, also where a spreadsheet made `1.0` of it.

    Raises:
        UserError: it is none.
    """
    value = number(path, row, column)
    if value != int(value):
        raise UserError(f"{path}: {column} is {row[column]!r}, wanted a whole number; row {row}")
    return int(value)


def flag(value: object, place: str) -> bool:
    """Return whether a cell of a table or a value of a JSON file says yes; an empty one says no.

    Args:
        value: `1`, `true`, `yes` or `0`, `false`, `no` in any case, or a boolean or number.
        place: for messages.

    Raises:
        UserError: another word.
    """
    word = str("" if value is None else value).strip().lower()
    if word in ("1", "1.0", "true", "yes", "y", "t"):
        return True
    if word in ("", "0", "0.0", "false", "no", "n", "f"):
        return False
    raise UserError(f"{place} is {value!r}, wanted 1, true or yes, or 0, false or no")


def list_names(folder: Path, depth: int = 6, folders: int = 8) -> list[str]:
    """Names below a folder, folders with a slash at the end: enough to recognise a layout without walking a corpus.

    Args:
        folder: where to look.
        depth: how deep.
        folders: how many subfolders of each folder are looked into.
    """
    names, level = [], [folder]
    for _ in range(depth):
        below_level = []
        for place in level:
            try:
                entries = sorted((path for path in place.iterdir() if path.name[0] != "."), key=lambda path: path.name)
            except OSError:
                continue
            inside = [path for path in entries if path.is_dir()]
            names += [path.relative_to(folder).as_posix() + "/" * path.is_dir() for path in entries]
            below_level += inside[:folders]
        level = below_level
    return names


def tree(folder: Path, depth: int = 2, most: int = 6) -> str:
    """Format a folder's content as a tree, two levels deep and a few names per folder, indented."""
    return "\n".join(_branches(folder, depth, most, "  ")) or "  (an empty folder)"


def _branches(folder: Path, depth: int, most: int, indent: str) -> Iterator[str]:
    try:
        paths = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError:
        return
    for path in paths[:most]:
        yield f"{indent}{path.name}{'/' * path.is_dir()}"
        if path.is_dir() and depth > 1:
            yield from _branches(path, depth - 1, most, indent + "  ")
    if len(paths) > most:
        yield f"{indent}... and {len(paths) - most} more"
