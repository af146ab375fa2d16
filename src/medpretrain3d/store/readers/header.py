"""Text headers: lines of a size that is read at most, numbers, and names of files that must stay beside the header."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from medpretrain3d.store.skipped_cases import InvalidCaseError

MAX_HEADER_BYTES = 2**20


def read_lines(path: Path) -> Iterator[tuple[str, int]]:
    """Return the lines of a header, each with the number of the byte behind it.

    Raises:
        InvalidCaseError: the header does not end within 1 MiB.
    """
    with path.open("rb") as file:
        while line := file.readline(MAX_HEADER_BYTES):
            if file.tell() > MAX_HEADER_BYTES:
                raise InvalidCaseError(
                    f"{path}: its header does not end within {MAX_HEADER_BYTES:,} bytes; export it again"
                )
            yield line.decode("latin-1").strip("\r\n"), file.tell()


def numbers(path: Path, header: Mapping[str, str], key: str, default: list[float] | None = None) -> list[float]:
    """Return the numbers of a field.

    Raises:
        InvalidCaseError: the field is missing and has no default, or holds something else than numbers.
    """
    if key not in header and default is not None:
        return default
    try:
        return [float(value) for value in header[key].split()]
    except (KeyError, ValueError) as error:
        raise InvalidCaseError(f"{path}: header needs numbers in '{key}'; export it again", "geometry") from error


def flag(header: Mapping[str, str], key: str) -> bool:
    """Return whether a field says yes."""
    return header.get(key, "").lower() in ("true", "1")


def file_beside(path: Path, name: str) -> Path:
    """Return the file a header names, which must lie beside the header or below it.

    Raises:
        InvalidCaseError: it lies elsewhere, is a list of several, or is missing.
    """
    data = path.parent / name
    if name.startswith("LIST") or "%" in name:
        raise InvalidCaseError(f"{path}: its voxels are spread over several files; write them as one", "layout")
    if not data.resolve().is_relative_to(path.parent.resolve()):
        raise InvalidCaseError(f"{path}: its voxels lie outside its folder; put them beside the header", "layout")
    if not data.is_file():
        raise InvalidCaseError(f"{path}: the file of its voxels is missing; copy it as well", "layout")
    return data
