"""Cases of raw data sets as the jobs of preparing them: ids that can name a folder, one set of classes."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.channel_names import unit_of
from medpretrain3d.ingest.importers import RawCase, RawDataset
from medpretrain3d.ingest.prepare_case import Job
from medpretrain3d.ingest.prepare_options import PrepareOptions
from medpretrain3d.names import plain_name
from medpretrain3d.store.layout import Layout


def common_classes(raws: Sequence[Path], datasets: Sequence[RawDataset]) -> tuple[str, ...]:
    """Return the classes of the labeled data sets, () without any.

    Raises:
        UserError: they differ.
    """
    labeled = {dataset.classes: raw for raw, dataset in zip(raws, datasets, strict=True) if dataset.classes}
    if len(labeled) > 1:
        message = "; ".join(f"{raw}: {', '.join(names)}" for names, raw in labeled.items())
        raise UserError(f"data sets of different classes ({message}); prepare them into different stores")
    return next(iter(labeled), ())


def prepare_jobs(
    raws: Sequence[Path],
    datasets: Sequence[RawDataset],
    store: Path,
    options: PrepareOptions,
    channel_names: Sequence[str],
    layout: Layout,
) -> Iterator[Job]:
    """Yield a job for each case; one that cannot be used as it is named has its problem noted.

    Raises:
        UserError: a case is in two folders, or instances of several classes are asked for.
    """
    is_labeled = any(dataset.classes for dataset in datasets)
    unit = options.unit or unit_of(channel_names)
    home: dict[str, Path] = {}
    for raw, dataset in zip(raws, datasets, strict=True):
        for case in map(_named, dataset.cases):
            if home.get(case.id) == raw:
                problem = f"another file gives the case id '{case.id}' as well; rename one of them"
                case = replace(case, id=_folder_name(f"{case.id} {_place(raw, case)}"), problem=problem)
            if case.id in home:
                raise UserError(
                    f"case '{case.id}' is in {home[case.id]} and in {raw}; rename one, or prepare them into two stores "
                    "(pretraining takes several)"
                )
            home[case.id] = raw
            if is_labeled and not dataset.classes:
                case = replace(case, split="unlabelled")
            rule = options.objects or dataset.objects
            if options.objects == "instances" and dataset.objects != "instances":
                case = _of_instances(raw, case, dataset.classes)
            yield Job(
                case,
                store,
                rule,
                options.spacing_mm,
                options.min_voxels,
                unit,
                len(channel_names),
                options.straighten,
                options.as_points,
                layout,
            )


def _of_instances(raw: Path, case: RawCase, classes: Sequence[str]) -> RawCase:
    """Return a case whose label map tells objects by their values, and no classes.

    Raises:
        UserError: there are several classes, of which each object would need to be one.
    """
    if len(classes) > 1:
        raise UserError(
            f"{raw}: --objects instances: got {len(classes)} classes ({', '.join(classes[:4])}), wanted one; say the "
            "class of each object by nnU-Net's dataset.json with instances: true (docs/datasets.md)"
        )
    return case if case.labels is None else replace(case, class_of_value=None)


def _named(case: RawCase) -> RawCase:
    """Return the case under an id that can be the name of a folder; one that has none becomes a note."""
    try:
        plain_name(case.id, "case id")
    except UserError as error:
        return replace(case, id=_folder_name(case.id), problem=f"{error}; rename its file or folder")
    return case


def _place(raw: Path, case: RawCase) -> str:
    """Return where a case lies in its data set, wherever that is on this machine."""
    return next((os.path.relpath(file, raw) for file in (*case.images, *case.label_files)), "")


def _folder_name(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9-]+', '_', text)[:60].strip('_')}_{digest}"
