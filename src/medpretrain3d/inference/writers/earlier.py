"""Results of an earlier call in the files of all scans, which a call writes anew."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from medpretrain3d.documents import LARGE, read_json, read_table
from medpretrain3d.errors import UserError

_ADVICE = "it is made again"


def cases_written(folder: Path, formats: Collection[str]) -> list[str]:
    """Case ids in the files of some formats, in their order; a file that is missing or damaged holds none.

    Args:
        folder: of predictions.
        formats: of `writers.OF_RUN`; others say nothing of all scans.
    """
    found: dict[str, None] = {}
    for name, entries in (("json", "predictions"), ("coco", "images")):
        if name in formats:
            file = folder / ("predictions.json" if name == "json" else "predictions.coco.json")
            found |= dict.fromkeys(_of_json(file, entries))
    if "csv" in formats:
        found |= dict.fromkeys(_of_table(folder / "predictions.csv"))
    return list(found)


def _of_json(path: Path, entries: str) -> list[str]:
    try:
        document: Any = read_json(path, dict[str, Any], _ADVICE, LARGE)
        return [str(entry["case"]) for entry in document[entries]]
    except (UserError, KeyError, TypeError):
        return []


def _of_table(path: Path) -> list[str]:
    try:
        return [row["case"] for row in read_table(path, ["case"], _ADVICE)]
    except UserError:
        return []
