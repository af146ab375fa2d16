"""A store at another spacing, made of a store: what `prepare --spacing-mm` would have made of the raw files.

Boxes are carried from the finer grid as exact numbers, images and masks are resampled as `prepare` does it, hashes and
statistics of the scans before resampling stay, and splits, folds and notes come along.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import as_completed
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medpretrain3d.atomic import finished_file, remove_unfinished
from medpretrain3d.errors import UserError
from medpretrain3d.store.case import Case, CaseData, Instance, index_row
from medpretrain3d.store.case_files import CASES, case_folder
from medpretrain3d.store.damage import check_sizes
from medpretrain3d.store.index import INDEX, fingerprint, write_index_file
from medpretrain3d.store.layout import FolderLayout, layout_of, write_case
from medpretrain3d.store.pack import REPORT
from medpretrain3d.store.pseudo_objects import PSEUDO_OBJECTS
from medpretrain3d.store.sidecar import CARRIED
from medpretrain3d.store.splits import SPLITS
from medpretrain3d.store.store import SKIPPED, Store
from medpretrain3d.store.volume import Volume, check_spacing, resample, resample_labels
from medpretrain3d.worker_pool import worker_pool

RESAMPLED_FROM = "resampled_from"
"""Key of a case's sidecar: the hash of the case that it was made of."""
KEPT = ("prepared_from", "measured", "num_too_small", "remarks", PSEUDO_OBJECTS)
"""Keys of a case's sidecar that `prepare` or `pseudo` wrote and that resampling leaves as they are."""
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class ResampleSummary:
    """What a call did."""

    num_cases: int
    num_reused: int
    """Cases that an earlier call had made of the same voxels and objects."""


def resample_store(
    source: Path | str,
    target: Path,
    spacing_mm: Spacing,
    workers: int = 1,
    progress: Callable[[Iterable[str], int], Iterable[str]] = lambda ids, total: ids,
) -> ResampleSummary:
    """Write a store with the cases of another one at one spacing.

    Cases that an earlier call made of the same content stay, so a killed call continues; two at once are for the caller
    to prevent.

    Args:
        source: folder or URL of a store.
        target: folder of the new store.
        spacing_mm: along (D, H, W).
        workers: processes.
        progress: wraps the ids of the cases as they are done; the number to be done is given beside.

    Raises:
        UserError: no store, a target that holds something else or a store of another spacing, a spacing that none is,
            or a full disk.
    """
    check_spacing(spacing_mm)
    store, target = Store(source), Path(target)
    if target.resolve() == store.path.resolve():
        raise UserError(f"{target}: is the store itself; name another folder")
    _check_room(store, target, spacing_mm)
    remove_unfinished(target / CASES, set(store.case_ids))
    remove_unfinished(target, {INDEX, SPLITS, SKIPPED, REPORT})
    todo = [case_id for case_id in store.case_ids if not _is_made(store, target, case_id, spacing_mm)]
    if todo:
        (target / INDEX).unlink(missing_ok=True)  # it holds again once every case is there
    with closing(_made(store, target, todo, spacing_mm, workers)) as running:
        for _ in progress(running, len(todo)):
            pass
    _write_index(store, target, spacing_mm)
    return ResampleSummary(len(store), len(store) - len(todo))


def spacing_of(place: Path) -> str:
    """Return the spacing of the store that is at a place, in words; nothing where there is none, or none to be read."""
    with suppress(UserError):
        if (place / INDEX).is_file():
            found = Store(place).spacing_mm
            return "each scan's own" if found is None else spacing_in_words(found)
    return ""


def spacing_in_words(spacing_mm: Sequence[float]) -> str:
    """Return a spacing along (D, H, W) with all of its digits."""
    return f"{' x '.join(map(repr, map(float, spacing_mm)))} mm"


def _check_room(store: Store, target: Path, spacing_mm: Spacing) -> None:
    """Refuse a folder that holds anything but an earlier copy of the same cases at this spacing."""
    strangers = sorted(set(layout_of(target).cases()) - set(store.case_ids))
    others = [] if (target / CASES).is_dir() else sorted(path.name for path in target.glob("[!.]*"))
    if strangers or others:
        what = f"case '{strangers[0]}', which is not of {store.path}" if strangers else others[0]
        raise UserError(f"{target}: holds {what}; remove that folder, or name another one")
    there = spacing_of(target)
    if there not in ("", spacing_in_words(spacing_mm)):
        raise UserError(
            f"{target}: is a store at {there}, which a recipe may name; asked for is {spacing_in_words(spacing_mm)}: "
            "name another folder, or remove that one"
        )


def _is_made(store: Store, target: Path, case_id: str, spacing_mm: Spacing) -> bool:
    files = FolderLayout(target).find(case_id)
    if files is None:
        return False
    try:
        case = Case.open(files)
        check_sizes(case)
    except UserError:
        return False
    made_of, source = case.sidecar.get(RESAMPLED_FROM), store.case(case_id).sidecar
    is_carried = all(case.sidecar.get(name) == source.get(name) for name in (*CARRIED, *KEPT))
    return is_carried and made_of == [source["sha256"], list(spacing_mm), source["patient"]]


def _made(
    store: Store, target: Path, case_ids: Sequence[str], spacing_mm: Spacing, workers: int
) -> Generator[str, None, None]:
    """Yield the id of each case once it is written."""
    if workers <= 1 or len(case_ids) <= 1:
        yield from (_resample_case(store, target, case_id, spacing_mm) for case_id in case_ids)
        return
    with worker_pool(workers) as pool:
        futures = [pool.submit(_resample_in_worker, store.place, target, one, spacing_mm) for one in case_ids]
        yield from (future.result() for future in as_completed(futures))


def _resample_in_worker(place: str, target: Path, case_id: str, spacing_mm: Spacing) -> str:
    return _resample_case(_opened(place), target, case_id, spacing_mm)


@functools.lru_cache(maxsize=1)
def _opened(place: str) -> Store:
    """Return the store that a worker reads cases of, whose index is read once."""
    return Store(place)


def _resample_case(store: Store, target: Path, case_id: str, spacing_mm: Spacing) -> str:
    write_case(target, _resampled(store.case(case_id), store.entries[case_id], spacing_mm))
    return case_id


def _resampled(case: Case, entry: Any, spacing_mm: Spacing) -> CaseData:
    image = resample(Volume(case.read_image(), case.grid, case.source_grid, case.rescale), spacing_mm)
    mask = None
    if case.has_mask:
        mask = resample_labels(Volume(case.read_instances()[None], case.grid, case.source_grid), spacing_mm).array[0]
    visible = set() if mask is None else set(np.unique(mask).tolist())
    boxes = np.array([one["box_vox"] for one in case.sidecar["instances"]], dtype=np.float64).reshape(-1, 6)
    objects = [
        Instance(one["id"] if one["id"] in visible else 0, one["label"], tuple(box), num_voxels)
        for one, box, num_voxels in zip(
            case.sidecar["instances"], _carried(case, boxes, image), case.object_voxels, strict=True
        )
    ]
    ignored = np.array(case.sidecar["ignore_boxes_vox"], dtype=np.float64).reshape(-1, 6)
    kept = {name: case.sidecar[name] for name in KEPT if name in case.sidecar}
    if "options" in case.sidecar:  # those that `prepare` would have had, which takes the case for its own
        kept["options"] = {**case.sidecar["options"], "spacing_mm": list(spacing_mm)}
    return CaseData(
        case.id,
        image.array,
        image.grid,
        image.source_grid,
        case.source_file,
        objects,
        mask,
        [tuple(box) for box in _carried(case, ignored, image)],
        case.sidecar["patient"],
        rescale=image.rescale,
        voxels=case.sidecar["voxels"],
        statistics=case.statistics,
        pad_values=case.pad_values,
        partly_hidden=[number for number in case.partly_hidden if number in visible],
        facts={**kept, RESAMPLED_FROM: [entry["sha256"], list(spacing_mm), case.sidecar["patient"]]},
    )


def _carried(case: Case, boxes_vox: np.ndarray, to: Volume) -> list[list[float]]:
    result: list[list[float]] = (
        boxes_vox if case.grid == to.grid else case.grid.map_boxes(boxes_vox, to.grid)
    ).tolist()
    return result


def _write_index(store: Store, target: Path, spacing_mm: Spacing) -> None:
    """Write splits, notes and the index, which comes last."""
    rows = []
    for case_id in store.case_ids:
        case = Case.open(case_folder(target, case_id))
        rows.append({**index_row(case.sidecar), "counts": list(store.entries[case_id]["counts"])})
    for name in (SKIPPED, REPORT, SPLITS):
        if (store.path / name).is_file():
            with finished_file(target / name) as unfinished:
                shutil.copyfile(store.path / name, unfinished)
    made = fingerprint(store.classes, ((row["id"], row["sha256"]) for row in rows))
    write_index_file(target, {**store.facts, "spacing_mm": list(spacing_mm), "fingerprint": made}, rows)
