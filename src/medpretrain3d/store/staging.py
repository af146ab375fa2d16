"""Stores copied to a disk of the node that trains, once for all processes there."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from xxhash import xxh3_64, xxh3_64_hexdigest

from medpretrain3d.atomic import finished_file, remove_unfinished
from medpretrain3d.atomic.disk_errors import disk_errors
from medpretrain3d.errors import UserError
from medpretrain3d.lines import print_line
from medpretrain3d.store.case_files import CASES, IMAGE, MASK, SIDECAR
from medpretrain3d.store.index import INDEX
from medpretrain3d.store.layout import CONTAINERS
from medpretrain3d.store.local_copies import evict, local_copies, use
from medpretrain3d.store.splits import SPLITS
from medpretrain3d.store.store import Store
from medpretrain3d.urls import refuse_url

_PIECE = 2**24
_TELL_S = 30.0
"""Seconds between two lines of progress."""
_LOOK_S = 1.0
"""Seconds between two looks at whether another process has ended."""
_SPARE = 2**26
"""Bytes left free on the disk."""


def staged(store: Path | str, folder: Path | str) -> Path:
    """Return the copy of a store below `folder`, after making what of it is not there yet.

    One process of a node copies while the others wait; if it is killed, the next goes on with the file it was at. Each
    file is read again once it is written and compared with what was read from the store. The copy of a store whose
    index or splits change is another folder, in which what a copy with the same index has is linked. Where the disk is
    too small, older copies that no process reads are removed.

    Args:
        store: folder or URL of a store.
        folder: on a disk of this node.

    Raises:
        UserError: no store, a folder that is a URL, a disk that is too small or refuses, or a copy that differs.
    """
    refuse_url(folder)
    source = Store(store)
    index, splits = (xxh3_64_hexdigest((source.path / name).read_bytes()) for name in (INDEX, SPLITS))
    target = Path(folder) / f"{index}-{splits}" / source.path.name
    use(target.parent)
    with _one_at_a_time(Path(folder) / f".{index}.lock", target):
        names = _names(source)
        missing = [(name, size) for name, size in names.items() if not _is_there(target / name, size)]
        others = [one for one in Path(folder).glob(f"{index}-*/*") if one.parent != target.parent]
        missing = [(name, size) for name, size in missing if not _is_linked(others, target, name, size)]
        if missing:
            _copy(source, target, missing, len(names))
    return target


def _is_linked(others: Sequence[Path], target: Path, name: str, size: int) -> bool:
    """Link a file of another copy of the same cases, where there is one; splits may be others."""
    if name in (INDEX, SPLITS):
        return False
    for other in others:
        if _is_there(other / name, size):
            with suppress(OSError):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                (target / name).unlink(missing_ok=True)
                os.link(other / name, target / name)
                return True
    return False


def _names(source: Store) -> dict[str, int]:
    """Return every file of a store that a run reads, with its bytes; the index last."""
    containers = sorted({entry["container"] for entry in source.entries.values() if "container" in entry})
    names = [f"{CONTAINERS}/{name}" for name in containers]
    for case_id, entry in source.entries.items():
        if "container" not in entry:
            parts = (IMAGE, MASK, SIDECAR) if entry["has_mask"] else (IMAGE, SIDECAR)
            names += [f"{CASES}/{case_id}/{part}" for part in parts]
    return {name: source.size_of(name) for name in (*names, SPLITS, INDEX)}


def _is_there(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _copy(source: Store, target: Path, missing: list[tuple[str, int]], num_files: int) -> None:
    total, done, began = sum(size for _, size in missing), 0, time.monotonic()
    with disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target).free
    if total + _SPARE > free:
        free = _free_after_eviction(target, total + _SPARE - free)
    if total + _SPARE > free:
        raise UserError(
            f"data.stage_to: {target} needs {total:,} bytes more, its disk has {free:,} free; name a larger disk, or "
            "leave data.stage_to out"
        )
    print_line(f"staging {source.place} to {target}: {len(missing)} of {num_files} files, {total / 1e9:.2f} GB")
    told = began
    for number, (name, size) in enumerate(missing):
        remove_unfinished((target / name).parent, {Path(name).name})
        _copy_file(source, target / name, name, size)
        done += size
        if (now := time.monotonic()) - told > _TELL_S:
            told = now
            rate = done / (now - began)
            left_s = (total - done) / rate
            print_line(
                f"staging {source.place}: {number + 1} of {len(missing)} files, {done / max(total, 1):.0%}, "
                f"{rate / 1e6:.0f} MB/s, {left_s / 60:.0f} min left"
            )
    print_line(f"staged {source.place}: {total / 1e9:.2f} GB in {time.monotonic() - began:.0f} s, compared")


def _free_after_eviction(target: Path, lacking: int) -> int:
    """Return how many bytes are free once older copies are gone, of which none goes where all would not do."""
    folder = target.parent.parent
    if lacking <= sum(copy.num_bytes for copy in local_copies(folder) if not copy.is_in_use):
        for copy in evict(folder, lacking):
            place, size_gb = copy.folder / copy.name, copy.num_bytes / 1e9
            print_line(f"{place}: an older copy that nothing reads is removed, {size_gb:.2f} GB")
    return shutil.disk_usage(target).free


def _copy_file(source: Store, path: Path, name: str, size: int) -> None:
    read, written = xxh3_64(), xxh3_64()
    with finished_file(path) as unfinished:
        with source.open_file(name) as file, unfinished.open("wb") as copy:
            while piece := file.read(_PIECE):
                read.update(piece)
                copy.write(piece)
        with unfinished.open("rb") as copy:
            while piece := copy.read(_PIECE):
                written.update(piece)
        if unfinished.stat().st_size != size or read.digest() != written.digest():
            raise UserError(f"{path}: is not what was read from {source.place}; the disk or the store is at fault")


@contextmanager
def _one_at_a_time(lock: Path, target: Path) -> Iterator[None]:
    """Wait until no other process of this machine is at it; the lock of one that is killed is free at once."""
    with disk_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        number = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        is_told = False
        while not _is_taken(number):
            if not is_told:
                print_line(f"{target}: another process stages it; waiting")
                is_told = True
            time.sleep(_LOOK_S)
        yield
    finally:
        os.close(number)


def _is_taken(number: int) -> bool:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks: every file is renamed into place, so both may copy
    return True
