"""From raw files to a store: read, check, resample, find objects, write; one case at a time, several at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from medpretrain3d.atomic import write_text
from medpretrain3d.data.importers import ObjectRule, RawCase, RawDataset, read_raw
from medpretrain3d.data.objects import find_objects
from medpretrain3d.data.store import Content, Object, case_folder, index_row, write_case, write_index
from medpretrain3d.data.volume import Volume, read_labels, read_volume, resample, resample_labels
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
class _Outcome:
    case_id: str
    row: dict[str, Any] | None
    reused: bool = False
    reason: str = ""


def prepare(
    raws: Sequence[Path],
    store: Path,
    options: PrepareOptions = PrepareOptions(),  # noqa: B008  frozen
    workers: int = 1,
    progress: bool = True,
) -> Summary:
    """Prepare one or more raw folders into one store.

    A case that is already there with the same source file and options is kept, so an interrupted call continues. The
    same input gives the same bytes, whatever the number of workers. A case that cannot be used is left out and noted in
    `skipped.json`; the others go on.

    Raises:
        UserError: an unknown layout, data sets of different classes, one case id twice, no usable case, or a full disk.
    """
    datasets = [read_raw(Path(raw), options.fold) for raw in raws]
    classes = _common_classes(raws, datasets)
    jobs = _jobs(raws, datasets, options)
    outcomes: list[_Outcome] = []
    with closing(_outcomes(jobs, store, options, workers)) as running:
        for outcome in _with_progress(running, len(jobs), progress):
            outcomes.append(outcome)
    outcomes.sort(key=lambda outcome: outcome.case_id)
    case_of = {case.id: case for case, _ in jobs}
    skipped = tuple(
        {"case": outcome.case_id, "file": case_of[outcome.case_id].image.name, "reason": outcome.reason}
        for outcome in outcomes
        if outcome.row is None
    )
    write_text(store / "skipped.json", json.dumps(skipped, indent=1) + "\n")
    rows = [outcome.row for outcome in outcomes if outcome.row is not None]
    if not rows:
        raise UserError(f"{store}: none of {len(jobs)} cases could be used; the first: {skipped[0]['reason']}")
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for row in rows:
        splits.setdefault(case_of[row["id"]].split, []).append(row["id"])
    write_index(store, classes, options.spacing_mm, rows, splits)
    reused = sum(outcome.reused for outcome in outcomes)
    return Summary(len(rows) - reused, reused, skipped, {name: len(ids) for name, ids in splits.items() if ids})


def _common_classes(raws: Sequence[Path], datasets: Sequence[RawDataset]) -> tuple[str, ...]:
    labelled = {dataset.classes for dataset in datasets if dataset.classes}
    if len(labelled) > 1:
        raise UserError(
            f"{', '.join(map(str, raws))}: different classes {sorted(labelled)}; prepare them into different stores"
        )
    return labelled.pop() if labelled else ()


def _jobs(
    raws: Sequence[Path], datasets: Sequence[RawDataset], options: PrepareOptions
) -> list[tuple[RawCase, ObjectRule]]:
    jobs: dict[str, tuple[RawCase, ObjectRule]] = {}
    for raw, dataset in zip(raws, datasets, strict=True):
        for case in dataset.cases:
            if case.id in jobs:
                raise UserError(
                    f"{raw}: case '{case.id}' is there twice ({case.image} and {jobs[case.id][0].image}); rename one"
                )
            jobs[case.id] = (case, options.objects or dataset.objects)
    return list(jobs.values())


def _outcomes(
    jobs: Sequence[tuple[RawCase, ObjectRule]], store: Path, options: PrepareOptions, workers: int
) -> Iterator[_Outcome]:
    if workers <= 1:
        for case, rule in jobs:
            yield _prepare_case(case, rule, store, options)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_prepare_case, case, rule, store, options) for case, rule in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _with_progress(outcomes: Iterator[_Outcome], total: int, show: bool) -> Iterator[_Outcome]:
    from tqdm import tqdm

    return iter(tqdm(outcomes, total=total, desc="prepare", unit="case", disable=not show))


def _prepare_case(case: RawCase, rule: ObjectRule, store: Path, options: PrepareOptions) -> _Outcome:
    facts = {"prepared_from": _fingerprint(case), "options": {**asdict(options), "objects": rule}}
    known = _finished(store, case.id, facts)
    if known is not None:
        return _Outcome(case.id, known, reused=True)
    try:
        content = _content(case, rule, options, facts)
    except UserError as error:
        return _Outcome(case.id, None, reason=str(error))
    return _Outcome(case.id, write_case(store, content))


def _content(case: RawCase, rule: ObjectRule, options: PrepareOptions, facts: dict[str, Any]) -> Content:
    image = read_volume(case.image)
    mask, objects = None, []
    if case.labels is not None:
        labels = read_labels(case.labels)
        if not labels.grid.is_close(image.grid):
            raise UserError(
                f"{case.labels}: geometry differs from the image: shape {labels.grid.shape} and spacing "
                f"{_rounded(labels.grid.spacing_mm)} mm, wanted {image.grid.shape} and {_rounded(image.grid.spacing_mm)} mm "
                "at the same place; export the mask on the image's grid"
            )
        try:
            instances, found = find_objects(labels.array[0], case.class_of_value, rule, options.min_voxels)
        except UserError as error:
            raise UserError(f"{case.labels}: {error}") from error
        target = image.grid.resampled(options.spacing_mm) if options.spacing_mm else image.grid
        # Boxes come from the mask as drawn, not from the resampled one, which may lose a voxel or a whole object.
        native = np.array([one.box_vox for one in found], dtype=np.float64).reshape(-1, 6)
        boxes = image.grid.map_boxes(native, target)
        objects = [Object(one.id, one.label, tuple(box.tolist())) for one, box in zip(found, boxes, strict=True)]
        mask = Volume(instances[None], labels.grid, labels.source_grid)
    if options.spacing_mm:
        image = resample(image, options.spacing_mm)
        mask = None if mask is None else resample_labels(mask, options.spacing_mm)
    return Content(
        case_id=case.id,
        image=image.array,
        mask=None if mask is None else mask.array[0],
        grid=image.grid,
        source_grid=image.source_grid,
        objects=objects,
        source_file=case.image.name,
        facts=facts,
    )


def _finished(store: Path, case_id: str, facts: dict[str, Any]) -> dict[str, Any] | None:
    """The index row of a case that is already there, made from the same files with the same options."""
    path = case_folder(store, case_id) / "case.json"
    try:
        document = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return None
    same = all(document.get(name) == json.loads(json.dumps(value)) for name, value in facts.items())
    return index_row(document) if same else None


def _fingerprint(case: RawCase) -> dict[str, list[int]]:
    files = {"image": case.image, "labels": case.labels}
    stats = {name: path.stat() for name, path in files.items() if path is not None}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]
