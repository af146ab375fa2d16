"""The date of a result: when its numbers were there, which decides what was declared before, and which is the newest.

It is kept beside how the job ended, since the times of files are those of the last copy, checkout or evaluation.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from medpretrain3d.documents import read_json
from medpretrain3d.errors import UserError
from medpretrain3d.study.record import ADVICE, RUN_FILES, Done, lacks_weights


def result_date(folder: Path, kind: str, done: Path) -> datetime | None:
    """Return when the result of a job was there, at the latest; None where nothing says it.

    Jobs of earlier versions kept no date. Of a run that was made here the oldest of its files stands in: it is older
    than the numbers, so nothing is taken for older than they are. Of a copy without weights the times say nothing.

    Args:
        folder: of its run, or its store.
        kind: of job.
        done: the file that says how it ended.
    """
    with suppress(UserError, OSError, ValueError):
        if date := read_json(done, Done, ADVICE).get("date"):
            return parse_date(date)
    if kind == "prepare":
        times = [done.stat().st_mtime] if done.is_file() else []
    else:
        files = (folder / name for name in RUN_FILES)
        times = [] if lacks_weights(folder, kind) else [file.stat().st_mtime for file in files if file.is_file()]
    return datetime.fromtimestamp(min(times), UTC) if times else None


def parse_date(text: str) -> datetime:
    """Read a date of ISO 8601, in UTC where it names no zone.

    Raises:
        ValueError: it is none.
    """
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
