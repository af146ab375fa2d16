"""From raw folders to a store: several cases at once, several calls on one store, each with a share of the cases."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

from medpretrain3d.atomic import locked_folder, remove_unfinished, write_text
from medpretrain3d.atomic.lock import LOCK
from medpretrain3d.documents import json_text
from medpretrain3d.errors import MachineError, UserError
from medpretrain3d.failure import death
from medpretrain3d.ingest.channel_names import common_channel_names
from medpretrain3d.ingest.copies import check_copies
from medpretrain3d.ingest.importers import RawDataset, read_raw
from medpretrain3d.ingest.patients import with_patients
from medpretrain3d.ingest.prepare_case import (
    Job,
    PrepareResult,
    Redo,
    earlier,
    fault_of,
    find_existing,
    prepare_case,
)
from medpretrain3d.ingest.prepare_jobs import common_classes, prepare_jobs
from medpretrain3d.ingest.prepare_options import PrepareOptions
from medpretrain3d.ingest.prepare_report import REPORT, PrepareReport
from medpretrain3d.store.case_files import CASES
from medpretrain3d.store.kept_splits import KeptSplits
from medpretrain3d.store.layout import CONTAINERS, ContainerLayout, FolderLayout, Layout, layout_of
from medpretrain3d.store.skipped_cases import SKIP_RECORDS
from medpretrain3d.store.splits import SPLITS, Fold
from medpretrain3d.store.store import INDEX, SKIPPED, Store, write_index
from medpretrain3d.store.stratify import complete_folds
from medpretrain3d.store.volume import check_spacing
from medpretrain3d.worker_pool import exit_code_of_the_dead, worker_pool

TRIED = 3
"""Cases of a finished store that are tried before all of them are made again."""
OTHER_CALL_S = 3600
"""A file of the index that another shard began is left alone for this long."""


@dataclass(frozen=True)
class Summary:
    """Result of preparing a store."""

    prepared: int
    reused: int
    skipped: tuple[dict[str, str], ...]
    """`case`, `file`, `kind` and `reason` of each case that could not be used."""
    splits: dict[str, int]
    """Cases per split; empty while `awaited` is not 0."""
    awaited: int = 0
    """Cases that other shards have yet to prepare; the last one makes the index."""
    again: Mapping[str, str] = field(default_factory=dict)
    """Cases that were there and had to be made again, each with the reason."""
    report: PrepareReport | None = None
    """What is in the store and what is not; None while cases are awaited."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """What each case took that was looked at anew."""


def prepare(
    raws: Path | Sequence[Path],
    store: Path,
    options: PrepareOptions | None = None,
    workers: int = 1,
    progress: bool = False,
    shard: tuple[int, int] = (1, 1),
    check: bool = False,
    containers: bool = False,
) -> Summary:
    """Prepare one or more raw folders into one store.

    A case that is already there with the same source files and options is kept, so a killed call continues; one whose
    files are missing, of another size or changed since is made again, and `Summary.again` says so. Of a case that is of
    another patient now, or of another name of the patient, that alone is written. The same
    input gives the same bytes, whatever the number of workers and shards. A case that cannot be used is left out and
    noted in `skipped.json`; the others go on. Where labelled and unlabelled folders meet, the unlabelled cases go to
    the split `unlabeled`: nobody looked for objects there, so they are no negatives.

    Args:
        raws: folders that an importer knows.
        store: folder to write; may hold an earlier preparation of the same cases.
        options: what decides the content; None is each option's default.
        workers: processes.
        progress: whether to show a bar.
        shard: `(i, n)`, i from 1 to n: prepare every n-th case only. The call after which no case is left makes the
            index. Each shard is locked for itself, the whole store where there is one.
        check: whether every byte of the cases that are there is compared with its checksum.
        containers: whether many cases share a file; a store of containers stays one without being asked.

    Raises:
        UserError: an unknown layout, data sets of different classes or channels, one case id twice, a table that marks
            copies of a scan differently, a store of other cases, no usable case, no such shard, another call at work on
            the store or shard, or a full disk.
    """
    raws, store = [Path(raw) for raw in ([raws] if isinstance(raws, Path | str) else raws)], Path(store)
    options = options or PrepareOptions()
    number, count = shard
    if not 1 <= number <= count:
        raise UserError(f"shard {number}/{count}: wanted i/n with i from 1 to n, as 1/4")
    if options.spacing_mm is not None:
        check_spacing(options.spacing_mm)
    with _locked(store, shard):
        layout = _layout(store, shard, containers)
        try:
            return _prepare(raws, store, options, workers, progress, shard, check, layout)
        finally:
            layout.close()


def _layout(store: Path, shard: tuple[int, int], containers: bool) -> Layout:
    if not containers:
        found = layout_of(store)
        containers = isinstance(found, ContainerLayout)
    elif any((store / CASES).glob("[!.]*")):
        raise UserError(
            f"{store}: has a folder for each case; convert it with `medpretrain3d pack {store} OUT`, or go on without "
            "--containers"
        )
    if not containers:
        return FolderLayout(store)
    number, count = shard
    return ContainerLayout(store, f"{number}-of-{count}")


def _prepare(
    raws: Sequence[Path],
    store: Path,
    options: PrepareOptions,
    workers: int,
    progress: bool,
    shard: tuple[int, int],
    check: bool,
    layout: Layout,
) -> Summary:
    number, count = shard
    read = [read_raw(raw, options.fold, options.dataset, dict(options.dataset_options)) for raw in raws]
    datasets = with_patients(raws, read, options.patients)
    classes, channel_names = common_classes(raws, datasets), common_channel_names(raws, datasets)
    jobs = sorted(prepare_jobs(raws, datasets, store, options, channel_names, layout), key=lambda job: job.case.id)
    own = jobs[number - 1 :: count]
    _check_room(layout, {job.case.id for job in jobs if job.case.images})
    _clean(store, {job.case.id for job in own}, 0 if count == 1 else OTHER_CALL_S)

    found = {job.case.id: earlier(job, check) for job in own}
    known = {case_id: one for case_id, one in found.items() if isinstance(one, PrepareResult)}
    again = {case_id: one.reason for case_id, one in found.items() if isinstance(one, Redo) and one.reason}
    kept = {case_id for case_id, one in found.items() if isinstance(one, Redo) and one.is_kept}
    todo = [replace(job, is_kept=job.case.id in kept) for job in own if job.case.id not in known]
    if todo and (store / INDEX).is_file() and len(again) == len(own):
        _check_all_again(store, todo)
    lost = f"{store / SPLITS} was missing; folds and label order that it may have held are gone"
    is_lost = (store / INDEX).is_file() and not (store / SPLITS).is_file()
    if todo:
        (store / INDEX).unlink(missing_ok=True)  # it holds again once every case is there
    with closing(_outcomes(todo, workers)) as running:
        known |= dict(_with_bar(running, len(todo), progress))
    seconds = {job.case.id: known[job.case.id].seconds for job in todo}
    now = layout.reread()
    others = {job.case.id: find_existing(replace(job, layout=now)) for job in jobs if job.case.id not in known}
    outcomes = known | {case_id: one for case_id, one in others.items() if one is not None}

    message = {job.case.id for job in (own if len(outcomes) < len(jobs) else jobs)}
    skipped = tuple(_told(one.note) for case_id, one in sorted(outcomes.items()) if one.note and case_id in message)
    prepared = sum(outcomes[job.case.id].row is not None for job in todo if not job.is_kept)
    reused = sum(outcomes[job.case.id].row is not None for job in own) - prepared
    if len(outcomes) < len(jobs):
        return Summary(prepared, reused, skipped, {}, len(jobs) - len(outcomes), again, None, seconds)
    voxels = {case_id: one.row["voxels"] for case_id, one in outcomes.items() if one.row is not None}
    copies = check_copies(raws, datasets, voxels, layout.reread())
    folds, notes = _official_folds(raws, datasets)
    written = _write_index(store, jobs, outcomes, skipped, classes, options, channel_names, folds)
    notes += [*([lost] if is_lost else []), *written.notes, *copies, *([] if folds else complete_folds(Store(store)))]
    report = PrepareReport.of(raws, datasets, Store(store), skipped, notes)
    report.write(store)
    splits = {name: len(ids) for name, ids in written.splits.named.items() if ids}
    return Summary(prepared, reused, skipped, splits, 0, again, report, seconds)


def _official_folds(raws: Sequence[Path], datasets: Sequence[RawDataset]) -> tuple[Sequence[Fold], list[str]]:
    """Return the folds of the one data set that names some; of several none, and a warning."""
    named = [(raw, dataset.folds) for raw, dataset in zip(raws, datasets, strict=True) if dataset.folds]
    if len(named) <= 1:
        return (named[0][1] if named else ()), []
    message = " and ".join(f"{raw} ({len(folds)})" for raw, folds in named)
    return (), [
        f"{message} name folds each, which do not belong together: none are taken; `medpretrain3d split` deals out "
        "folds of all cases, `prepare` into a store for each data set keeps them"
    ]


def _check_all_again(store: Path, jobs: Sequence[Job]) -> None:
    """Refuse to make every case of a finished store again where the first ones could not be: an option is wrong.

    Raises:
        UserError: none of the first `TRIED` can be used; nothing was written.
    """
    faults = []
    for job in jobs[:TRIED]:
        fault = fault_of(job)
        if not fault:
            return
        faults.append(f"{job.case.id}: {fault}")
    raise UserError(
        f"{store}: every case would be made again with these options or files, and of the first {len(faults)} none can "
        f"be used ({faults[0]}); the store is left as it is; mend the options, or prepare into another folder"
    )


def _write_index(
    store: Path,
    jobs: Sequence[Job],
    outcomes: Mapping[str, PrepareResult],
    skipped: Sequence[Mapping[str, str]],
    classes: Sequence[str],
    options: PrepareOptions,
    channel_names: Sequence[str],
    folds: Sequence[Fold],
) -> KeptSplits:
    """Make the index of a store whose cases are all there; returns its splits."""
    write_text(store / SKIPPED, json_text(list(skipped), indent=1))
    rows = [outcome.row for outcome in outcomes.values() if outcome.row is not None]
    if not rows:
        (store / INDEX).unlink(missing_ok=True)
        raise UserError(
            f"{store}: none of the {len(jobs)} cases can be used, see {SKIPPED}; first: {skipped[0]['reason']}"
        )
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for job in jobs:
        if outcomes[job.case.id].row is not None:
            splits.setdefault(job.case.split, []).append(job.case.id)
    return write_index(store, classes, options.spacing_mm, rows, splits, channel_names, folds)


def _told(note: Mapping[str, Any]) -> dict[str, str]:
    return {name: note[name] for name in ("case", "file", "kind", "reason")}


def _check_room(layout: Layout, case_ids: set[str]) -> None:
    """Refuse a folder of other content."""
    store = layout.store
    is_store = any((store / name).is_dir() for name in (CASES, CONTAINERS, SKIP_RECORDS))
    if store.is_dir() and not is_store and any(store.glob("[!.]*")):
        raise UserError(f"{store}: is neither empty nor a store; choose another folder")
    strangers = sorted(set(layout.cases()) - case_ids)
    if strangers:
        raise UserError(
            f"{store}: holds {len(strangers)} cases that are not in the raw folders, first '{strangers[0]}', "
            "or whose image is missing there; choose another folder, or give all raw folders in one call"
        )


@contextmanager
def _locked(store: Path, shard: tuple[int, int]) -> Iterator[None]:
    """Keep other calls out of the store, or out of one shard of it."""
    number, count = shard
    own = LOCK if count == 1 else f".shard-{number}-of-{count}{LOCK}"
    with locked_folder(store, own, clean=False):
        for path in sorted(store.glob(f".shard-*{LOCK}")) if count == 1 else ():
            with locked_folder(store, path.name, clean=False):  # removes that of a killed call, refuses a living one
                pass
        yield


def _clean(store: Path, case_ids: set[str], index_age_s: float) -> None:
    """Remove leftovers of killed calls; cases of other shards may just be in the making."""
    remove_unfinished(store / CASES, case_ids)
    remove_unfinished(store / SKIP_RECORDS, {f"{case_id}.json" for case_id in case_ids})
    remove_unfinished(store, {INDEX, SPLITS, SKIPPED, REPORT}, index_age_s)


def _outcomes(jobs: Sequence[Job], workers: int) -> Generator[tuple[str, PrepareResult], None, None]:
    if workers <= 1 or len(jobs) <= 1:
        yield from ((job.case.id, prepare_case(job)) for job in jobs)
        return
    with worker_pool(workers) as pool:
        futures = {pool.submit(prepare_case, job): job.case.id for job in jobs}
        processes = active_children()
        try:
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
        except BrokenProcessPool as error:
            message = death("a worker", exit_code_of_the_dead(processes), "use fewer --workers")
            raise MachineError(f"{message}; finished cases are kept") from error


def _with_bar(
    outcomes: Iterator[tuple[str, PrepareResult]], total: int, show: bool
) -> Iterator[tuple[str, PrepareResult]]:
    from tqdm import tqdm

    return iter(tqdm(outcomes, total=total, desc="prepare", unit="case", disable=not show))
