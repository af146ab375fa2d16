"""From raw files to a store: read, check, resample, find objects, write; one case at a time, several at once."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from medpretrain3d.atomic import write_text
from medpretrain3d.data.case import CASES, Case, Content, Object, case_folder, index_row, write_case
from medpretrain3d.data.grid import Grid
from medpretrain3d.data.importers import ObjectRule, RawCase, RawDataset, read_raw
from medpretrain3d.data.objects import find_objects
from medpretrain3d.data.store import INDEX, SKIPPED, write_index
from medpretrain3d.data.volume import (
    Volume,
    check_same_place,
    check_spacing,
    read_channels,
    read_labels,
    resample,
    resample_labels,
)
from medpretrain3d.errors import UserError


@dataclass(frozen=True)
class PrepareOptions:
    """What decides the content of a store."""

    spacing_mm: tuple[float, float, float] | None = None
    """Along (D, H, W); None keeps each scan's own."""
    objects: ObjectRule | None = None
    """None is what the data set says of itself."""
    min_voxels: int = 1
    fold: int = 0


@dataclass(frozen=True)
class Summary:
    """What happened."""

    prepared: int
    reused: int
    skipped: tuple[dict[str, str], ...]
    """`case`, `file` and `reason` of each case that could not be used."""
    splits: dict[str, int]


@dataclass(frozen=True)
class _Job:
    case: RawCase
    rule: ObjectRule
    store: Path
    options: PrepareOptions
    num_channels: int


@dataclass(frozen=True)
class _Outcome:
    case: RawCase
    row: dict[str, Any] | None
    reused: bool = False
    reason: str = ""


def prepare(
    raws: Path | Sequence[Path],
    store: Path,
    options: PrepareOptions = PrepareOptions(),
    workers: int = 1,
    progress: bool = False,
) -> Summary:
    """Prepare one or more raw folders into one store.

    A case that is already there with the same source files and options is kept, so an interrupted call continues. The
    same input gives the same bytes, whatever the number of workers. A case that cannot be used is left out and noted in
    `skipped.json`; the others go on. Where labelled and unlabelled folders meet, the unlabelled cases go to the split
    `unlabelled`: nobody looked for objects there, so they are no negatives.

    Args:
        raws: folders that an importer knows.
        store: folder to write; may hold an earlier preparation of the same cases.
        options: what decides the content.
        workers: processes.
        progress: whether to show a bar.

    Raises:
        UserError: an unknown layout, data sets of different classes, one case id twice, a store of other cases, no
            usable case, or a full disk.
    """
    raws = [Path(raw) for raw in ([raws] if isinstance(raws, Path | str) else raws)]
    if options.spacing_mm is not None:
        check_spacing(options.spacing_mm)
    datasets = [read_raw(raw, options.fold) for raw in raws]
    classes = _common_classes(raws, datasets)
    channel_names = _channel_names(datasets)
    jobs = _jobs(raws, datasets, Path(store), options, len(channel_names), bool(classes))
    _make_room(Path(store), {job.case.id for job in jobs})
    with closing(_outcomes(jobs, workers)) as running:
        outcomes = sorted(_with_bar(running, len(jobs), progress), key=lambda outcome: outcome.case.id)
    skipped = tuple(
        {
            "case": outcome.case.id,
            "file": outcome.case.images[0].name if outcome.case.images else "",
            "reason": outcome.reason,
        }
        for outcome in outcomes
        if outcome.row is None
    )
    write_text(Path(store) / SKIPPED, json.dumps(skipped, indent=1) + "\n")
    rows = [outcome.row for outcome in outcomes if outcome.row is not None]
    if not rows:
        raise UserError(
            f"{store}: none of the {len(jobs)} cases can be used, see {SKIPPED}; first: {skipped[0]['reason']}"
        )
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for outcome in outcomes:
        if outcome.row is not None:
            splits.setdefault(outcome.case.split, []).append(outcome.case.id)
    write_index(Path(store), classes, options.spacing_mm, rows, splits, channel_names)
    reused = sum(outcome.reused for outcome in outcomes)
    return Summary(len(rows) - reused, reused, skipped, {name: len(ids) for name, ids in splits.items() if ids})


def _common_classes(raws: Sequence[Path], datasets: Sequence[RawDataset]) -> tuple[str, ...]:
    labelled = {dataset.classes: raw for raw, dataset in zip(raws, datasets, strict=True) if dataset.classes}
    if len(labelled) > 1:
        told = "; ".join(f"{raw}: {', '.join(names)}" for names, raw in labelled.items())
        raise UserError(f"data sets of different classes ({told}); prepare them into different stores")
    return next(iter(labelled), ())


def _channel_names(datasets: Sequence[RawDataset]) -> tuple[str, ...]:
    named = [dataset.channel_names for dataset in datasets if dataset.channel_names]
    if named:
        return named[0]
    most = max(len(case.images) for dataset in datasets for case in dataset.cases)
    return tuple(f"channel {number}" for number in range(max(most, 1)))


def _jobs(
    raws: Sequence[Path],
    datasets: Sequence[RawDataset],
    store: Path,
    options: PrepareOptions,
    num_channels: int,
    is_labelled: bool,
) -> list[_Job]:
    home: dict[str, Path] = {}
    jobs = []
    for raw, dataset in zip(raws, datasets, strict=True):
        for case in dataset.cases:
            if case.id in home:
                raise UserError(
                    f"case '{case.id}' is in {home[case.id]} and in {raw}; rename one, or prepare them into two stores "
                    "(pretraining takes several)"
                )
            home[case.id] = raw
            case_folder(store, case.id)
            if is_labelled and not dataset.classes:
                case = replace(case, split="unlabelled")
            jobs.append(_Job(case, options.objects or dataset.objects, store, options, num_channels))
    return jobs


def _make_room(store: Path, case_ids: set[str]) -> None:
    """Refuse a folder of other content; take away the index, which holds again once every case is there."""
    cases = store / CASES
    if store.is_dir() and not cases.is_dir() and any(store.iterdir()):
        raise UserError(f"{store}: is neither empty nor a store; choose another folder")
    there = {path.name for path in cases.iterdir() if path.name[0] != "."} if cases.is_dir() else set()
    strangers = sorted(there - case_ids)
    if strangers:
        raise UserError(
            f"{store}: holds {len(strangers)} cases that are not in the raw folders, first '{strangers[0]}'; "
            "choose another folder, or give all raw folders in one call"
        )
    (store / INDEX).unlink(missing_ok=True)


def _outcomes(jobs: Sequence[_Job], workers: int) -> Generator[_Outcome, None, None]:
    if workers <= 1:
        yield from map(_prepare_case, jobs)
        return
    # spawn: a forked child may inherit locks that threads of the parent hold.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_prepare_case, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker died, most likely for want of memory; use fewer --workers, finished cases are kept"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _with_bar(outcomes: Iterator[_Outcome], total: int, show: bool) -> Iterator[_Outcome]:
    from tqdm import tqdm

    return iter(tqdm(outcomes, total=total, desc="prepare", unit="case", disable=not show))


def _prepare_case(job: _Job) -> _Outcome:
    case, folder = job.case, case_folder(job.store, job.case.id)
    facts: dict[str, Any] = {}
    try:
        if case.problem:
            raise UserError(case.problem)
        facts = _facts(job)
        known = _finished(folder, facts)
        if known is not None:
            return _Outcome(case, known, reused=True)
        content = _content(job, facts)
    except UserError as error:
        return _Outcome(case, None, reason=str(error))
    return _Outcome(case, write_case(job.store, content))


def _content(job: _Job, facts: dict[str, Any]) -> Content:
    case, spacing_mm = job.case, job.options.spacing_mm
    if len(case.images) != job.num_channels:
        raise UserError(f"has {len(case.images)} channels, wanted {job.num_channels}")
    image = read_channels(case.images)
    target = image.grid.resampled(spacing_mm) if spacing_mm else image.grid
    mask, objects = _objects(job, image, target) if case.labels is not None else (None, [])
    if spacing_mm:
        image = resample(image, spacing_mm)
    return Content(case.id, image.array, image.grid, image.source_grid, case.images[0].name, objects, mask, facts=facts)


def _objects(job: _Job, image: Volume, target: Grid) -> tuple[np.ndarray, list[Object]]:
    path = job.case.labels
    assert path is not None
    labels = read_labels(path)
    check_same_place(path, labels.grid, job.case.images[0], image.grid)
    try:
        instances, found = find_objects(labels.array[0], job.case.class_of_value, job.rule, job.options.min_voxels)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    mask = Volume(instances[None], labels.grid, labels.source_grid)
    if job.options.spacing_mm:
        mask = resample_labels(mask, job.options.spacing_mm)
    # Boxes come from the mask as drawn, not from the resampled one, which may lose a voxel or a whole object.
    native = np.array([one.box_vox for one in found], dtype=np.float64).reshape(-1, 6)
    boxes = native if target == image.grid else image.grid.map_boxes(native, target)
    visible = set(np.unique(mask.array).tolist())
    objects = [
        Object(one.id if one.id in visible else 0, one.label, tuple(box.tolist()))
        for one, box in zip(found, boxes, strict=True)
    ]
    return mask.array[0], objects


def _finished(folder: Path, facts: dict[str, Any]) -> dict[str, Any] | None:
    """The index row of a case that is already there, made from the same files with the same options."""
    try:
        sidecar = Case.open(folder).sidecar
        same = all(sidecar.get(name) == json.loads(json.dumps(value)) for name, value in facts.items())
        return index_row(sidecar) if same else None
    except (UserError, KeyError):
        return None


def _facts(job: _Job) -> dict[str, Any]:
    """What decides a case's content: its files by size and time of change, the classes of its values, the options."""
    files = [*job.case.images, *([job.case.labels] if job.case.labels else [])]
    stats = [(path.name, path.stat()) for path in files]
    return {
        "prepared_from": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats],
        "options": {
            "spacing_mm": job.options.spacing_mm,
            "objects": job.rule,
            "min_voxels": job.options.min_voxels,
            "class_of_value": {str(value): label for value, label in sorted(job.case.class_of_value.items())},
        },
    }
