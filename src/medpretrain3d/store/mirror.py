"""Stores read over object storage: byte ranges, kept in sparse files on a disk of this machine.

A mirror looks like the store. Its index and splits are whole; every other file has the size it has over there, and
holes where nothing has been read. Which blocks are there says a file beside it, a byte each, set once the block is
written: several processes may fill one mirror, and one that is killed leaves nothing wrong behind.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any, BinaryIO, cast

from xxhash import xxh3_64_hexdigest

from medpretrain3d.atomic import finished_file
from medpretrain3d.atomic.disk_errors import disk_errors
from medpretrain3d.errors import UserError
from medpretrain3d.store.local_copies import evict_to, use

BLOCK = 2**18
"""Bytes that are asked for at least: a row of chunks of a CT is about 100 kB."""
ATTEMPTS = 3
"""Times that a range is asked for before it is an error."""
CACHE = "MEDPRETRAIN3D_CACHE"
"""Environment variable that names the folder of mirrors; ~/.cache/medpretrain3d where it is not set."""
LIMIT = "MEDPRETRAIN3D_CACHE_GB"
"""Environment variable: GB that mirrors may take; those used longest ago go when another store is opened."""
_BLOCKS = ".blocks"


class Mirror:
    """What is read of a store behind a URL.

    Args:
        url: of the store's folder, of any kind that fsspec knows (https, s3, gs, ...).
        index: name of the file by whose content the store is known; a store that changed gets another mirror.
        others: names of further files that are copied whole, where they are there.

    Raises:
        UserError: there is no such file, or what the URL needs is not installed.
    """

    def __init__(self, url: str, index: str, others: tuple[str, ...] = ()) -> None:
        self.url = url
        contents = {name: self._whole(name, must_be=name == index) for name in (index, *others)}
        key = xxh3_64_hexdigest(b"\0".join([url.encode(), *(content or b"" for content in contents.values())]))
        self.folder = mirrors_folder() / key / url.rsplit("/", 1)[-1]
        self._sizes: dict[Path, int] = {}
        use(self.folder.parent)
        if (limit_bytes := mirrors_limit()) is not None:
            evict_to(mirrors_folder(), limit_bytes)
        for name, content in contents.items():
            if content is not None and not (self.folder / name).is_file():
                with finished_file(self.folder / name) as unfinished:
                    unfinished.write_bytes(content)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_sizes": {}}

    def fetch(self, path: Path, ranges: list[tuple[int, int]]) -> None:
        """Have the bytes of each half-open range in a file of the mirror.

        Raises:
            UserError: they cannot be had, or the disk is full.
        """
        name = path.relative_to(self.folder).as_posix()
        if path not in self._sizes:
            size = self._size(name)
            if size is None:
                return  # who asked finds that it is missing
            self._make(path, size)
        size = self._sizes[path]
        wanted = {
            block for start, stop in ranges for block in range(max(start, 0) // BLOCK, -(-min(stop, size) // BLOCK))
        }
        if not wanted:
            return
        with disk_errors(path), path.with_name(path.name + _BLOCKS).open("r+b", buffering=0) as flags:
            there = os.pread(flags.fileno(), -(-size // BLOCK), 0)
            missing = _runs(sorted(block for block in wanted if not there[block]))
            if not missing:
                return
            starts = [first * BLOCK for first, _ in missing]
            stops = [min((last + 1) * BLOCK, size) for _, last in missing]
            with path.open("r+b", buffering=0) as file:
                for (first, last), start, content in zip(
                    missing, starts, self._ranges(name, starts, stops), strict=True
                ):
                    _write(file.fileno(), content, start)
                    _write(flags.fileno(), b"\1" * (last + 1 - first), first)

    def open(self, name: str) -> BinaryIO:
        """Open a file over there, to be read from its beginning to its end.

        Raises:
            UserError: there is none, or it cannot be had.
        """
        return cast(BinaryIO, self._try(name, lambda fs, place: fs.open(place, "rb", block_size=2**24)))

    def has(self, name: str) -> bool:
        """Return whether there is such a file over there.

        Raises:
            UserError: that cannot be had.
        """
        return self._size(name) is not None

    def size(self, name: str) -> int:
        """Return the bytes of a file over there.

        Raises:
            UserError: there is none, or it cannot be had.
        """
        size = self._size(name)
        if size is None:
            raise UserError(f"{self.url}/{name}: no such file; prepare the store again and upload it whole")
        return size

    def _make(self, path: Path, size: int) -> None:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            for one, num_bytes in ((path, size), (path.with_name(path.name + _BLOCKS), -(-size // BLOCK))):
                number = os.open(one, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                try:
                    if os.fstat(number).st_size != num_bytes:
                        os.ftruncate(number, num_bytes)
                finally:
                    os.close(number)
        self._sizes[path] = size

    def _size(self, name: str) -> int | None:
        found = self._try(name, lambda fs, place: fs.size(place), None)
        return None if found is None else int(found)

    def _whole(self, name: str, must_be: bool) -> bytes | None:
        content: bytes | None = self._try(name, lambda fs, place: fs.cat_file(place), None)
        if content is None and must_be:
            raise UserError(
                f"{self.url}: has no {name}, so it is no store; upload one that `medpretrain3d prepare` made"
            )
        return content

    def _ranges(self, name: str, starts: list[int], stops: list[int]) -> list[bytes]:
        places = [name] * len(starts)
        found = self._try(name, lambda fs, place: fs.cat_ranges([place] * len(places), starts, stops, on_error="raise"))
        for content, start, stop in zip(found, starts, stops, strict=True):
            if len(content) != stop - start:
                raise UserError(
                    f"{self.url}/{name}: got {len(content):,} bytes, wanted {stop - start:,}; its server gives no byte "
                    "ranges, or the file was changed: read the store from another place, or copy it"
                )
        return list(found)

    def _try(self, name: str, ask: Any, *missing: Any) -> Any:
        """Ask the file system behind the URL, again after an error that may pass."""
        place = f"{self.url}/{name}"
        for attempt in range(1, ATTEMPTS + 1):
            try:
                from fsspec.core import url_to_fs

                fs, path = url_to_fs(place)  # one per process: fsspec keeps it, and forgets it after a fork
                return ask(fs, path)
            except FileNotFoundError as error:
                if getattr(error.__cause__, "status", 404) != 404:  # fsspec calls any refusal to tell the size so
                    self._wait(place, attempt, error.__cause__ or error)
                    continue
                if missing:
                    return missing[0]
                raise UserError(f"{place}: no such file; prepare the store again and upload it whole") from error
            except (ImportError, ValueError) as error:
                raise UserError(
                    f"{place}: cannot be read ({_line(error)}); install what fsspec needs for it"
                ) from error
            except Exception as error:  # every kind of storage has its own
                self._wait(place, attempt, error)
        raise AssertionError

    def _wait(self, place: str, attempt: int, error: BaseException) -> None:
        """Let an error pass; the last is raised."""
        if attempt == ATTEMPTS:
            raise UserError(
                f"{place}: cannot be read, {ATTEMPTS} times ({_line(error)}); look at the address, the network and the "
                "rights to it"
            ) from error
        time.sleep(attempt)


def mirrors_folder() -> Path:
    """Return the folder in which mirrors are kept."""
    named = os.environ.get(CACHE)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else base / "medpretrain3d"


def mirrors_limit() -> int | None:
    """Return how many bytes mirrors may take; None for any number.

    Raises:
        UserError: the environment says something that is no number.
    """
    text = os.environ.get(LIMIT)
    if not text:
        return None
    try:
        limit_bytes = float(text) * 1e9
        if not 0 <= limit_bytes < math.inf:
            raise ValueError
    except ValueError as error:
        raise UserError(f"{LIMIT} {text!r}: wanted a number of GB, such as 200") from error
    return int(limit_bytes)


def _runs(blocks: list[int]) -> list[tuple[int, int]]:
    """Join neighbouring blocks: first and last of each run."""
    runs: list[tuple[int, int]] = []
    for block in blocks:
        if runs and runs[-1][1] == block - 1:
            runs[-1] = runs[-1][0], block
        else:
            runs.append((block, block))
    return runs


def _write(number: int, content: bytes, at: int) -> None:
    left = memoryview(content)
    while left:
        written = os.pwrite(number, left, at)
        at, left = at + written, left[written:]


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__
