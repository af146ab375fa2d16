"""Results of an earlier call in the files of all scans, which a call writes anew."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from medpretrain3d.documents import LARGE, read_json, read_table
from medpretrain3d.errors import UserError
from medpretrain3d.inference.writers.document import is_predictions
from medpretrain3d.inference.writers.table import HEADER

_ADVICE = "it is made again"
_FILES = {"json": "predictions.json", "csv": "predictions.csv", "coco": "predictions.coco.json"}


def formats_written(folder: Path) -> list[str]:
    """Return the formats of all scans of which a folder holds a file that this program wrote."""
    is_ours: dict[str, Callable[[Path], bool]] = {
        "json": is_predictions,
        "csv": _is_table,
        "coco": lambda path: bool(_of_json(path, "images")),
    }
    return [name for name, file in _FILES.items() if (folder / file).is_file() and is_ours[name](folder / file)]


def entries_written(folder: Path) -> dict[str, Any]:
    """Return the entries of `predictions.json` by case; none where it is missing or damaged."""
    try:
        document: Any = read_json(folder / _FILES["json"], dict[str, Any], _ADVICE, LARGE)
        return {str(entry["case"]): entry for entry in document["predictions"]}
    except (UserError, KeyError, TypeError):
        return {}


def cases_written(folder: Path, formats: Collection[str]) -> list[str]:
    """Case ids in the files of some formats, in their order; a file that is missing or damaged holds none.

    Args:
        folder: of predictions.
        formats: of `writers.OF_RUN`; others say nothing of all scans.
    """
    found: dict[str, None] = {}
    for name, entries in (("json", "predictions"), ("coco", "images")):
        if name in formats:
            found |= dict.fromkeys(_of_json(folder / _FILES[name], entries))
    if "csv" in formats:
        found |= dict.fromkeys(_of_table(folder / _FILES["csv"]))
    return list(found)


def _of_json(path: Path, entries: str) -> list[str]:
    try:
        document: Any = read_json(path, dict[str, Any], _ADVICE, LARGE)
        return [str(entry["case"]) for entry in document[entries]]
    except (UserError, KeyError, TypeError):
        return []


def _is_table(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline().strip() == ",".join(HEADER).encode()


def _of_table(path: Path) -> list[str]:
    try:
        return [row["case"] for row in read_table(path, ["case"], _ADVICE)]
    except UserError:
        return []
