"""Files that grow by rows."""

from __future__ import annotations

from pathlib import Path

from medpretrain3d.atomic.disk_errors import disk_errors


def write_tail(path: Path, start: int, text: str) -> None:
    """Replace what a file holds from byte `start` on; what stands before is not touched.

    A process that is killed leaves the new tail whole, a crash of the machine may leave part of it.

    Raises:
        UserError: the disk is full or the file cannot be written.
    """
    data = text.encode()
    with disk_errors(path), path.open("r+b", buffering=0) as file:
        file.seek(start)
        written = 0
        while written < len(data):  # one call, unless the disk is full
            written += file.write(data[written:])
        file.truncate(start + len(data))
