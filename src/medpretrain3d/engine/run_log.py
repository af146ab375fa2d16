"""What a run says: printed by its first process, and kept with the time in `log.txt` of its folder."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from medpretrain3d.lines import print_line

LOG = "log.txt"


class RunLog:
    """Keeps every line of a run, behind those of its earlier sittings; one per process, `run_log`.

    What is said before the folder of the run is known, as by its data, is kept too. A file that cannot be written (a
    full disk, a removed folder) ends no run: that is said once.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Belong to no run yet."""
        self._path: Path | None = None
        self._waiting: list[str] = []

    def open(self, folder: Path) -> None:
        """Keep what was said so far, and from now on, in the folder of a run; the first process alone calls this."""
        self._path = Path(folder) / LOG
        said, self._waiting = self._waiting, []
        self._write("".join(said), is_first=True)

    def say(self, text: str) -> None:
        """Print a line and keep it; other processes than the first do neither."""
        if getattr(rank_zero_only, "rank", 0):
            return
        print_line(text)
        self.keep(text)

    def keep(self, text: str) -> None:
        """Keep a line that is printed elsewhere, as errors and warnings are."""
        if getattr(rank_zero_only, "rank", 0):
            return
        lines = "".join(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n" for line in text.splitlines())
        if self._path is None:
            self._waiting.append(lines)
        else:
            self._write(lines)

    def _write(self, lines: str, is_first: bool = False) -> None:
        path = self._path
        assert path is not None
        try:
            is_torn = is_first and path.exists() and path.stat().st_size > 0 and path.read_bytes()[-1:] != b"\n"
            with path.open("a", encoding="utf-8") as file:
                file.write(("\n" if is_torn else "") + lines)
        except OSError as error:
            self.begin()
            print_line(
                f"{path}: no line can be kept there any more ({error.strerror}); the run goes on", to_stderr=True
            )


run_log = RunLog()
"""That of this process."""


def log_warnings() -> None:
    """Show Python's warnings of the first process alone, where all would say the same, and keep them in its log."""
    show = warnings.showwarning

    def show_once(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        if not getattr(rank_zero_only, "rank", 0):
            show(message, category, filename, lineno, file, line)
            run_log.keep(f"{category.__name__}: {message}")

    warnings.showwarning = show_once
