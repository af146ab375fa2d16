"""Conversion of a store between a folder per case and containers, byte for byte."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from medpretrain3d.atomic import finished_file, finished_folder
from medpretrain3d.errors import UserError
from medpretrain3d.store.arrays import check_chunks
from medpretrain3d.store.case import Case
from medpretrain3d.store.case_files import CASES, IMAGE, MASK, SIDECAR, CaseFiles
from medpretrain3d.store.damage import check_sizes
from medpretrain3d.store.index import INDEX, write_index_file
from medpretrain3d.store.layout import CONTAINERS, ContainerLayout, FolderLayout, Layout
from medpretrain3d.store.sidecar import index_row
from medpretrain3d.store.skipped_cases import SKIP_RECORDS
from medpretrain3d.store.splits import SPLITS
from medpretrain3d.store.store import SKIPPED, Store

REPORT = "report.json"


@dataclass(frozen=True)
class PackSummary:
    """What a conversion did."""

    num_cases: int
    num_reused: int
    """Cases that an earlier call had written."""
    num_files: int
    """That the cases take now."""


def pack(
    source: Path,
    target: Path,
    to_folders: bool = False,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> PackSummary:
    """Copy a store into containers, or into folders, and read every chunk of what was written.

    A call that was killed is continued; two at once are for the caller to prevent. Splits, folds and notes come along;
    the fingerprint stays.

    Args:
        source: a store of either kind. One of containers is written anew without what newer records replace.
        target: folder of the new store.
        to_folders: whether each case becomes a folder.
        progress: wraps the ids that are gone through.

    Raises:
        UserError: no whole store, a damaged case, a target that holds something else, or a full disk.
    """
    store, target = Store(source), Path(target)
    if target.resolve() == store.path.resolve():
        raise UserError(f"{target}: is the store itself; name another folder")
    layout: Layout = FolderLayout(target) if to_folders else ContainerLayout(target)
    with closing(layout):
        _check_room(layout, store)
        num_reused, rows = 0, []
        for case_id in progress(store.case_ids):
            case = store.case(case_id)
            files = _earlier(layout, case)
            num_reused += files is not None
            row = index_row(case.sidecar, files or _copy(case, layout))
            rows.append({**row, "counts": list(store.entries[case_id]["counts"])})
        for name in (SKIPPED, REPORT, SPLITS):
            if not store.has_file(name):
                (target / name).unlink(missing_ok=True)
            else:
                with (
                    finished_file(target / name) as unfinished,
                    store.open_file(name) as file,
                    unfinished.open("wb") as copy,
                ):
                    shutil.copyfileobj(file, copy)
        _copy_skip_records(store.path / SKIP_RECORDS, target / SKIP_RECORDS)
        write_index_file(target, store.facts, rows)
    places = target / (CASES if to_folders else CONTAINERS)
    return PackSummary(len(rows), num_reused, sum(path.is_file() for path in places.rglob("*")))


def _copy_skip_records(source: Path, target: Path) -> None:
    """Replace the notes that an earlier call copied, some of which may be of cases that are in the store by now."""
    if source.is_dir():
        with finished_folder(target, replace=True) as unfinished:
            shutil.copytree(source, unfinished, dirs_exist_ok=True)
    elif target.is_dir():
        shutil.rmtree(target)


def _check_room(layout: Layout, store: Store) -> None:
    """Refuse a folder that holds anything but an earlier copy of the same store."""
    target = layout.store
    other = CASES if isinstance(layout, ContainerLayout) else CONTAINERS
    strangers = sorted(set(layout.cases()) - set(store.case_ids))
    if strangers or (target / other).is_dir():
        what = f"case '{strangers[0]}'" if strangers else f"a folder '{other}'"
        raise UserError(f"{target}: holds {what}, which is not of {store.place}; name another folder")
    known = {CASES, CONTAINERS, INDEX, SKIPPED, REPORT, SPLITS, SKIP_RECORDS}
    others = sorted(path.name for path in target.glob("[!.]*") if path.name not in known)
    if others:
        raise UserError(f"{target}: is neither empty nor a store, it holds {others[0]}; name another folder")
    (target / INDEX).unlink(missing_ok=True)  # it holds again once every case is there


def _earlier(layout: Layout, case: Case) -> CaseFiles | None:
    """Return the files of a copy that an earlier call made, if it is one."""
    files = layout.find(case.id)
    if files is None:
        return None
    try:
        copy = Case.open(files)
        check_sizes(copy)
    except UserError:
        return None
    return files if copy.sidecar == case.sidecar else None


def _copy(case: Case, layout: Layout) -> CaseFiles:
    """Copy the files of a case as they are.

    Raises:
        UserError: they are not what was written, be it in the store or in the copy; or the disk is full.
    """
    check_sizes(case)
    names = [IMAGE, *([MASK] if case.has_mask else []), SIDECAR]
    files = layout.write(case.id, {name: case.files.named(name).read() for name in names})
    check_chunks(files.image)
    if case.has_mask:
        check_chunks(files.mask)
    return files
