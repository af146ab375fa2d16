"""Tables and documents beside the scans: which there are, and whether they look as if they held objects."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from medpretrain3d.documents import LARGE, read_json, read_rows
from medpretrain3d.errors import UserError
from medpretrain3d.store.readers import walk

ENDINGS = (".csv", ".tsv")
DOCUMENTS = (*ENDINGS, ".xlsx", ".json", ".yaml", ".yml")
"""Files that may say something of scans."""
_NO_PLACE = re.compile(r"spacing|size|dim|shape|resolution|origin|direction")
_AXIS = r"(^|[^a-z]|coord|pos|cent(er|re)|world|voxel){axis}($|[^a-z]|min|max|coord|start|end)"


def tables_in(folder: Path) -> list[Path]:
    """Return the CSV files directly in a folder."""
    return sorted(path for path in walk(folder, is_deep=False) if path.suffix.lower() in ENDINGS and path.is_file())


def columns_of(path: Path) -> list[str]:
    """Return the names of a table's columns; none where it is no table."""
    try:
        rows = read_rows(path, "correct it")
    except UserError:
        return []
    return [name.strip() for name in next(iter(rows), [])]


def holds_places(path: Path) -> bool:
    """Return whether a table's columns look like coordinates along x, y and z, as `coordX` or `xmin`."""
    names = [name.lower() for name in columns_of(path) if not _NO_PLACE.search(name.lower())]
    return all(any(re.search(_AXIS.format(axis=axis), name) for name in names) for axis in "xyz")


def is_description(path: Path) -> bool:
    """Return whether a document is called as nnU-Net and nnDetection call the description of a data set."""
    return path.stem.lower() == "dataset" and path.suffix.lower() in (".json", ".yaml", ".yml")


def holds_objects(path: Path, beside_label_maps: bool = False) -> str:
    """Return why a table or document seems to hold objects or their classes; empty where nothing looks like it.

    Args:
        path: the file.
        beside_label_maps: whether objects are known already, so that a table of places measures them.
    """
    if path.suffix.lower() in ENDINGS:
        return "its columns look like objects" if holds_places(path) and not beside_label_maps else ""
    if is_description(path):
        return "it looks like the description of a data set"
    if path.suffix.lower() == ".json":
        document = _json(path)
        if {"annotations", "images"} <= set(document) or "instances" in document:
            return "it looks like objects"
    return ""


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path, dict[str, Any], "correct it", LARGE))
    except UserError:
        return {}
