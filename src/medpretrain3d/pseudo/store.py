"""From a store to a store of pseudo-objects: the same scans under the same ids and splits, other objects."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path
from typing import Any

from medpretrain3d.atomic import remove_unfinished
from medpretrain3d.errors import MachineError, UserError
from medpretrain3d.failure import death
from medpretrain3d.pseudo.options import PseudoOptions
from medpretrain3d.pseudo.organs import organs
from medpretrain3d.pseudo.scan import find_pseudo_objects
from medpretrain3d.store.case import Case, CaseData, Instance, index_row, write_case
from medpretrain3d.store.case_files import CASES
from medpretrain3d.store.damage import check_sizes
from medpretrain3d.store.layout import CONTAINERS, FolderLayout
from medpretrain3d.store.organ_files import organ_files
from medpretrain3d.store.pseudo_objects import PSEUDO_OBJECTS
from medpretrain3d.store.sidecar import CARRIED
from medpretrain3d.store.splits import write_splits
from medpretrain3d.store.store import INDEX, Store, write_index
from medpretrain3d.worker_pool import exit_code_of_the_dead, worker_pool

VERSION = 3
"""Of how objects are found; a case that an earlier one made is made again."""


@dataclass(frozen=True)
class PseudoSummary:
    """What a store of pseudo-objects holds."""

    num_found: int
    """Cases looked at in this call; the others were there."""
    num_reused: int
    objects: Mapping[str, int]
    """By kind."""
    dropped: Mapping[str, Counter[str]]
    """By kind, how many candidates were left out, by reason."""
    without: tuple[str, ...]
    """Cases in which nothing was found."""


@dataclass(frozen=True)
class _Job:
    store: str
    """Folder or URL."""
    out: Path
    case_id: str
    options: PseudoOptions
    organs: Path | None
    channel: int


def pseudo_store(
    store: Path | str,
    out: Path,
    options: PseudoOptions = PseudoOptions(),  # noqa: B008  frozen
    organs: Path | None = None,
    channel: int = 0,
    workers: int = 1,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda done, total: done,
) -> PseudoSummary:
    """Write a store whose objects are the pseudo-objects of the scans of another, with its splits and folds.

    A case is a function of its scan and the options, so a call that was killed goes on. Images are links to those of
    the store wherever they are files of their own and nothing was pasted into them.

    Args:
        store: what `prepare` wrote.
        out: folder to write; two calls at once are for the caller to prevent.
        options: which objects are looked for.
        organs: folder with masks of a segmenter.
        channel: of the scan, in which objects are looked for.
        workers: processes.
        progress: wraps the cases as they are done, of which there are so many.

    Raises:
        UserError: no store, a store of pseudo-objects, no such channel, another folder's content in `out`, masks that
            are missing or lie elsewhere, or a full disk.
    """
    source = Store(store)
    _check(source, Path(out), channel)
    place = Path(out)
    remove_unfinished(place / CASES, set(source.case_ids))
    jobs = [_Job(source.place, place, case_id, options, organs, channel) for case_id in source.case_ids]
    todo = [job for job in jobs if not _is_there(job, source)]
    (place / INDEX).unlink(missing_ok=True)  # it holds again once every case is there
    for _ in progress(_done(todo, workers), len(todo)):
        pass
    classes = options.kinds(source.unit)
    cases = [Case.open(FolderLayout(place).find(job.case_id) or place) for job in jobs]
    rows = [index_row(case.sidecar) for case in cases]
    write_splits(place, source.all_splits)  # whose label order the index keeps
    write_index(place, classes, source.spacing_mm, rows, source.splits, source.channel_names, source.all_splits.folds)
    counts = Counter(classes[label] for case in cases for label in case.labels.tolist())
    dropped: dict[str, Counter[str]] = {}
    for case in cases:
        for kind, why in case.sidecar[PSEUDO_OBJECTS]["dropped"].items():
            dropped[kind] = dropped.get(kind, Counter()) + Counter(why)
    without = tuple(case.id for case in cases if not len(case.labels))
    return PseudoSummary(len(todo), len(jobs) - len(todo), {kind: counts[kind] for kind in classes}, dropped, without)


def _check(source: Store, out: Path, channel: int) -> None:
    if out.resolve() == source.path.resolve():
        raise UserError(f"{out}: is the store itself; name another folder")
    if source.has_pseudo_objects:
        raise UserError(f"{source.path}: holds pseudo-objects already; give the store that they were found in")
    if not 0 <= channel < len(source.channel_names):
        raise UserError(f"channel {channel}: {source.path} has {len(source.channel_names)}, counted from 0")
    strangers = sorted(set(FolderLayout(out).cases()) - set(source.case_ids))
    if strangers or (out / CONTAINERS).is_dir():
        what = f"case '{strangers[0]}'" if strangers else f"a folder '{CONTAINERS}'"
        raise UserError(f"{out}: holds {what}, which is not of {source.path}; name another folder")
    if out.is_dir() and not (out / CASES).is_dir() and any(out.glob("[!.]*")):
        raise UserError(f"{out}: is neither empty nor a store of pseudo-objects; name another folder")
    for files in list(FolderLayout(out).cases().values())[:1]:
        if PSEUDO_OBJECTS not in Case.open(files).sidecar:
            raise UserError(f"{out}: is a store of other objects; name another folder")


def _facts(job: _Job, source: Case) -> dict[str, Any]:
    """Return the cache key of a case: its scan, the options, the masks by size and time of change."""
    masks = [] if job.organs is None else organ_files(job.organs, job.case_id)
    return {
        "version": VERSION,
        "scan": source.sidecar["sha256"],
        "options": dict(job.options.to_json()),
        "channel": job.channel,
        "organs": [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in masks],
    }


def _is_there(job: _Job, store: Store) -> bool:
    source = store.case(job.case_id)
    facts = _facts(job, source)
    files = FolderLayout(job.out).find(job.case_id)
    try:
        if files is None:
            return False
        case = Case.open(files)
        check_sizes(case)
    except UserError:
        return False
    known = case.sidecar.get(PSEUDO_OBJECTS, {})
    is_carried = all(case.sidecar[name] == source.sidecar[name] for name in CARRIED)
    return is_carried and {name: known.get(name) for name in facts} == facts


def _done(jobs: Sequence[_Job], workers: int) -> Iterator[str]:
    if workers <= 1 or len(jobs) <= 1:
        yield from map(_write, jobs)
        return
    with worker_pool(workers) as pool:
        futures = [pool.submit(_write, job) for job in jobs]
        processes = active_children()
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            message = death("a worker", exit_code_of_the_dead(processes), "use fewer --workers")
            raise MachineError(f"{message}; finished cases are kept") from error


_opened = functools.lru_cache(maxsize=1)(Store)
"""The index of a large corpus takes a second to read."""


def _write(job: _Job) -> str:
    """Find and write the objects of one case; returns its id."""
    source = _opened(job.store).case(job.case_id)
    facts = _facts(job, source)
    image = source.read_image()
    seed = int(source.sidecar["voxels"][:15], 16)
    of_organs = [] if job.organs is None else list(organs(source, job.organs))
    scan = find_pseudo_objects(image[job.channel], source.grid.spacing_mm, source.unit, job.options, of_organs, seed)
    is_pasted = any(region.kind == "blob" for region in scan.regions)
    image[job.channel] = scan.image
    labels, ids = scan.instances()
    classes = job.options.kinds(source.unit)
    dropped = {kind: dict(sorted(why.items())) for kind, why in scan.dropped.items()}
    case_data = CaseData(
        source.id,
        image,
        source.grid,
        source.source_grid,
        source.source_file,
        [
            Instance(number, classes.index(region.kind), region.box_vox)
            for number, region in zip(ids, scan.regions, strict=True)
        ],
        labels,
        patient=source.sidecar["patient"],
        rescale=source.rescale,
        voxels=source.sidecar["voxels"],
        statistics=source.statistics,
        pad_values=source.pad_values,
        partly_hidden=scan.partly_hidden(labels, ids),
        facts={PSEUDO_OBJECTS: {**facts, "dropped": dropped}},
        image_file=None if is_pasted else source.files.image,
    )
    write_case(job.out, case_data)
    return job.case_id
