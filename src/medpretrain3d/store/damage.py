"""Whether what lies in a store is what was written: by size whenever a case is used again, by checksums when asked."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medpretrain3d.errors import UserError
from medpretrain3d.store.case import Case
from medpretrain3d.store.case_files import CASES, IMAGE, MASK, SIDECAR, CaseFiles, case_folder
from medpretrain3d.store.layout import CONTAINERS, ContainerLayout, layout_of
from medpretrain3d.store.sidecar import index_row, sidecar_checksum
from medpretrain3d.store.store import Store
from medpretrain3d.urls import url_of


@dataclass(frozen=True)
class Damage:
    """Something in a store that is not what was written."""

    case: str
    """Id of the case; empty where it is the store's index or splits."""
    reason: str


def check_sizes(case: Case) -> None:
    """Compare a case's files with what was written without reading them, unless one changed after its sidecar.

    Then every byte is compared with its checksum, and the sidecar touched, so that it is not done again each time. A
    container changes with every case that is appended, so the time of a case's files is not known there.

    Raises:
        UserError: a file is missing, of another size, or changed; or the sidecar is.
    """
    sidecar = case.sidecar
    if sidecar.get("checksum", sidecar_checksum(sidecar)) != sidecar_checksum(sidecar):
        raise UserError(f"{SIDECAR} is not what was written (its checksum differs)")
    names = [IMAGE, MASK] if case.has_mask else [IMAGE]
    found = {name: _size(case.files, name) for name in names}
    for name, num_bytes in sidecar.get("file_bytes", {}).items():
        if name in found and found[name] != num_bytes:
            raise UserError(f"{name} has {found[name]:,} bytes, written were {num_bytes:,}")
    total = sum(found.values())
    if total != sidecar["bytes"]:
        raise UserError(f"{' and '.join(names)} have {total:,} bytes, written were {sidecar['bytes']:,}")
    if not case.files.container:
        _check_times(case, names)


def _size(files: CaseFiles, name: str) -> int:
    try:
        return files.named(name).size()
    except UserError as error:
        raise UserError(f"{name} is missing") from error


def _check_times(case: Case, names: Sequence[str]) -> None:
    written_ns = _changed_ns((case.folder / SIDECAR).stat())  # it is written last
    if any(_changed_ns((case.folder / name).stat()) > written_ns for name in names):
        case.verify()
        with contextlib.suppress(OSError):  # a store that may only be read
            (case.folder / SIDECAR).touch()


def _changed_ns(status: os.stat_result) -> int:
    """When a file changed, also where its time was set back afterwards."""
    return max(status.st_mtime_ns, status.st_ctime_ns)


def check_contents(case: Case) -> None:
    """Read every file of a case and compare it with its checksum.

    Raises:
        UserError: a file is missing, or a bit of it changed.
    """
    check_sizes(case)
    case.verify()


def check_store(path: Path, progress: Callable[[Iterable[Path]], Iterable[Path]] = iter) -> list[Damage]:
    """Verify a whole store: its index, its splits, and every byte of every case.

    Args:
        path: the store's folder.
        progress: wraps the places of cases that are gone through.

    Raises:
        UserError: the folder is no store.
    """
    if url := url_of(path):
        raise UserError(f"{url}: every byte is read of a store on a disk alone; check it before it is uploaded")
    if not ((path / CASES).is_dir() or (path / CONTAINERS).is_dir()):
        raise UserError(f"{path}: has no folder '{CASES}', so it is no store; make one with `medpretrain3d prepare`")
    found = []
    try:
        entries = Store(path).entries
    except UserError as error:
        entries = {}
        found.append(Damage("", str(error)))
    layout = layout_of(path)
    there = layout.cases()
    if isinstance(layout, ContainerLayout):
        found += [Damage("", reason) for reason in layout.damages()]
    for folder in progress([case_folder(path, name) for name in sorted(set(there) | set(entries))]):
        name = folder.name
        try:
            case = Case.open(there.get(name, CaseFiles.of_folder(folder)))
            check_contents(case)
            if entries and name not in entries:
                raise UserError("is not in the index")
            if entries and any(entries[name].get(key) != value for key, value in _comparable(case).items()):
                raise UserError("is not the case that the index knows")
        except UserError as error:
            found.append(Damage(name, str(error)))
    return found


def _comparable(case: Case) -> dict[str, object]:
    """Return the index row of a case but for the counts, which the index fills up with zeros."""
    row = index_row(case.sidecar, case.files)
    if case.files.container:
        row = {**row, "extents": list(case.files.extents)}
    return {key: value for key, value in row.items() if key != "counts"}
