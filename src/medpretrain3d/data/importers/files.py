"""Files and folders of a raw data set: which are scans, which case they belong to, and what the tree looks like."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from medpretrain3d.data.readers import volume_ending, volume_stem
from medpretrain3d.documents import LARGE, Row, read_table
from medpretrain3d.documents import read_json as read_document
from medpretrain3d.errors import UserError

LABEL_MAP = re.compile(r"(seg|segmentation|mask|label|labelmap|instance|annotation|gt)s?\d*(tr|ts)?")
"""A word, in lower case, that says of a file or of the files in a folder that they are no scans."""


def dicom_series(folder: Path) -> list[Path]:
    """Every folder at any depth, itself included, that holds .dcm files, in order."""
    return sorted({path.parent for path in folder.rglob("*.dcm") if path.name[0] != "."})


def channel_files(files: Iterable[Path]) -> dict[str, tuple[Path, ...]]:
    """Files of one folder by case: `<id>_0000`, `<id>_0001`, ... are channels, any other file is a case of its own.

    An id is a name without its ending; files that differ in nothing else, as `a.nii` and `a.mha`, keep it.
    """
    files = list(files)
    count = Counter(volume_stem(path) for path in files)
    by_stem = {volume_stem(path) if count[volume_stem(path)] == 1 else path.name: path for path in files}
    cases: dict[str, list[Path]] = defaultdict(list)
    for name, path in sorted(by_stem.items()):
        channel = re.fullmatch(r"(.+)_\d{4}", name)
        # A year at the end of a name is no channel: channels are counted from 0000 on.
        cases[channel[1] if channel and f"{channel[1]}_0000" in by_stem else name].append(path)
    return {case_id: tuple(paths) for case_id, paths in cases.items()}


def words_of(name: str) -> tuple[str, ...]:
    """The words of a name in lower case, at whatever else than letters and digits it is parted."""
    return tuple(re.findall(r"[^\W_]+", name.lower()))


def is_label_map(path: Path) -> bool:
    """Whether a volume is called a label map by the first or last word of its name or the last of a folder's."""
    if not volume_ending(path):
        return False
    words = words_of(volume_stem(path))
    telling = [*words[:1], *words[-1:], *(word for folder in path.parts[:-1] for word in words_of(folder)[-1:])]
    return any(LABEL_MAP.fullmatch(word) for word in telling)


def case_id_of(path: Path, root: Path) -> str:
    """A file or folder below `root` as an id: `a/b/scan.nii.gz` becomes `a__b__scan`."""
    parts = path.relative_to(root).parts
    return "__".join([*parts[:-1], volume_stem(path)]) if parts else path.name


def below(root: Path, name: str) -> Path:
    """A path that a file of the data set names, which must lie below the data set's folder.

    Raises:
        UserError: it is absolute or leads out of the folder.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise UserError(f"{root}: names the file {name!r}, wanted a path below this folder; correct it")
    return root / path


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: the file is missing or damaged.
    """
    return read_document(path, object, "correct it, or download it again", LARGE)


def read_csv(path: Path, columns: Iterable[str] = ()) -> list[Row]:
    """The rows of a CSV file by column name, stripped; empty rows are left out.

    Raises:
        UserError: the file is missing, no text, or lacks a column.
    """
    return read_table(path, columns, "correct it, or export it again as CSV in UTF-8")


def number(path: Path, row: dict[str, str], column: str) -> float:
    """A number out of a row of a CSV file.

    Raises:
        UserError: it is none.
    """
    try:
        return float(row[column])
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: {column} is {row.get(column, '')!r}, wanted a number; row {row}") from error


def glance(folder: Path, depth: int = 6, folders: int = 8) -> list[str]:
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
            entries = sorted((path for path in place.iterdir() if path.name[0] != "."), key=lambda path: path.name)
            inside = [path for path in entries if path.is_dir()]
            names += [path.relative_to(folder).as_posix() + "/" * path.is_dir() for path in entries]
            below_level += inside[:folders]
        level = below_level
    return names


def tree(folder: Path, depth: int = 2, most: int = 6) -> str:
    """What a folder holds, two levels deep and a few names per folder, indented."""
    return "\n".join(_branches(folder, depth, most, "  ")) or "  (an empty folder)"


def _branches(folder: Path, depth: int, most: int, indent: str) -> Iterator[str]:
    paths = sorted(folder.iterdir(), key=lambda path: path.name)
    for path in paths[:most]:
        yield f"{indent}{path.name}{'/' * path.is_dir()}"
        if path.is_dir() and depth > 1:
            yield from _branches(path, depth - 1, most, indent + "  ")
    if len(paths) > most:
        yield f"{indent}... and {len(paths) - most} more"
