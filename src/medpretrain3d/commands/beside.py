"""The default place of what a command makes of a folder: beside it, under its name and what was done."""

from __future__ import annotations

import os
from pathlib import Path


def beside(folder: Path, ending: str) -> Path:
    """Return the place whose name is that of a folder and an ending; of `.` and `..` the names of what they are."""
    named = folder if folder.name not in ("", "..") else Path(os.path.abspath(folder))  # links stay links
    return named.with_name(f"{named.name}{ending}")
