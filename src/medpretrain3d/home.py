"""The home folder, for which `~` stands in front of a path."""

from __future__ import annotations

from pathlib import Path


def from_home(path: str | Path) -> Path:
    """Return a path whose `~` in front is the home folder.

    Shells leave it behind `=` and within quotes, YAML everywhere: a folder of that name would be made.
    """
    path = Path(path)
    return path.expanduser() if path.parts[:1] == ("~",) else path
