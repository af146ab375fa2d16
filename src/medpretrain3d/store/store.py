"""The store: prepared cases on disk, indexed, split, and fingerprinted.

STORE/store.json                 index: classes, spacing, fingerprint, a few facts per case
STORE/splits.json                train, val, test, folds, see data/splits.py
STORE/skipped.json               [{"case", "file", "kind", "reason"}], from STORE/skipped/<id>.json
STORE/report.json                what of the raw folders is in the store and what is not
STORE/cases/<id>/image.b2nd      (C, D, H, W) int16
STORE/cases/<id>/mask.b2nd       (D, H, W) uint16 instance ids, where there is a mask
STORE/cases/<id>/case.json       geometry, objects, hash
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, with_config
from typing_extensions import TypedDict

from medpretrain3d.documents import (
    LARGE,
    SCHEMA,
    Artifact,
    CaseId,
    Name,
    Number,
    Text,
    Whole,
)
from medpretrain3d.errors import UserError
from medpretrain3d.store.case import CASES, VERSION, Case, CaseData, Instance, case_folder, index_row, write_case
from medpretrain3d.store.duplicates import DUPLICATES, keep_apart, same_voxels
from medpretrain3d.store.grid import Spacing
from medpretrain3d.store.splits import SPLITS, Fold, Splits, kept_splits, read_splits, write_splits
from medpretrain3d.store.unit import Unit

INDEX, SKIPPED = "store.json", "skipped.json"

__all__ = ["Case", "CaseData", "Instance", "Store", "case_folder", "index_row", "write_case", "write_index"]


_Step = Annotated[Number, Field(gt=0)]
_ADVICE = "prepare the store again"


@with_config(SCHEMA)
class _Row(TypedDict):
    id: CaseId
    shape: Annotated[list[Annotated[Whole, Field(ge=1)]], Field(min_length=3, max_length=3)]
    num_objects: Whole
    counts: list[Whole]
    has_mask: bool
    patient: Text | None
    voxels: Text
    sha256: Text


@with_config(SCHEMA)
class _Index(TypedDict):
    """Schema of `store.json`."""

    classes: list[Name]
    spacing_mm: Annotated[list[_Step], Field(min_length=3, max_length=3)] | None
    channel_names: list[Name]
    fingerprint: Text
    duplicates: list[list[Text]]
    cases: list[_Row]


INDEX_DOCUMENT = Artifact(
    "medpretrain3d-store", VERSION, _Index, f"this is not the index of a store, {_ADVICE}", VERSION, LARGE
)


class Store:
    """A folder written by `medpretrain3d prepare`. Opening it reads the index; cases are opened one by one.

    Args:
        path: the folder.

    Raises:
        UserError: the folder is no store, an unfinished one, or one written by a newer version.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import nibabel
        >>> import numpy as np
        >>> from medpretrain3d.ingest.prepare import prepare
        >>> from medpretrain3d.store import Store
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     scan = np.random.default_rng(0).integers(-200, 200, (16, 16, 16), dtype=np.int16)
        ...     nibabel.save(nibabel.Nifti1Image(scan, np.diag([2.0, 2, 2, 1])), Path(folder) / "scan.nii.gz")
        ...     _ = prepare(Path(folder), Path(folder) / "store")
        ...     store = Store(Path(folder) / "store")
        >>> store.case_ids, store.splits
        (('scan',), {'test': (), 'train': ('scan',), 'val': ()})
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        index = _read_index(self.path)
        spacing_mm = index["spacing_mm"]
        self.classes: tuple[str, ...] = tuple(index["classes"])
        self.channel_names: tuple[str, ...] = tuple(index["channel_names"])
        self.spacing_mm: Spacing | None = None if spacing_mm is None else (spacing_mm[0], spacing_mm[1], spacing_mm[2])
        """Along (D, H, W); None where every case keeps its own."""
        self.fingerprint: str = index["fingerprint"]
        """Changes when any voxel, box or class of any case does."""
        self.entries: dict[str, dict[str, Any]] = {entry["id"]: dict(entry) for entry in index["cases"]}
        """Per case: id, shape, num_objects, counts per class, has_mask, patient, bytes, and two hashes: `voxels` of the
        scan alone, the same for copies under other names, and `sha256` of all that training sees."""
        self.duplicates: tuple[tuple[str, ...], ...] = tuple(tuple(ids) for ids in index["duplicates"])
        """Groups of cases with the same voxels."""
        if not (self.path / SPLITS).is_file():
            raise UserError(f"{self.path / SPLITS}: is missing, so test cases would be trained on; {_ADVICE}")
        self.all_splits: Splits = read_splits(self.path, self.entries)
        self.splits: Fold = self.all_splits.named
        _check_apart(str(self.path / SPLITS), self.splits, self.duplicates)
        for number, fold in enumerate(self.all_splits.whole_folds()):
            _check_apart(f"{self.path / SPLITS}: fold {number}", fold, self.duplicates)

    @functools.cached_property
    def unit(self) -> Unit:
        """Intensity unit of its scans: one for all, as its first case tells."""
        return self.case(self.case_ids[0]).unit

    @property
    def case_ids(self) -> tuple[str, ...]:
        """Every case of the store, in the order of the index."""
        return tuple(self.entries)

    def case(self, case_id: str) -> Case:
        """Open a case.

        Raises:
            UserError: the store has no such case, or its sidecar is missing or damaged.
        """
        if case_id not in self.entries:
            known = ", ".join(list(self.entries)[:3])
            raise UserError(f"{self.path}: has no case '{case_id}'; it has {len(self)}: {known} ...")
        case = Case.open(case_folder(self.path, case_id))
        if case.labels.max(initial=-1) >= len(self.classes):
            raise UserError(
                f"case {case_id}: {case.folder} has an object of class {case.labels.max()}, the store has "
                f"{len(self.classes)} classes, counted from 0; {_ADVICE}"
            )
        return case

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, case_id: str) -> bool:
        return case_id in self.entries


def write_index(
    path: Path,
    classes: Sequence[str],
    spacing_mm: Sequence[float] | None,
    rows: Sequence[Mapping[str, Any]],
    splits: Mapping[str, Sequence[str]],
    channel_names: Sequence[str] = ("CT",),
    folds: Sequence[Fold] = (),
) -> Fold:
    """Make a store of cases already written. The index comes last, so a store that has one is complete.

    Args:
        path: the store's folder.
        classes: names, in the order of the labels.
        spacing_mm: along (D, H, W) where all cases share it.
        rows: of every case, as `write_case` gives them.
        splits: cases per split; cases of none are listed under `train`. Of copies that are in several splits one split
            keeps its own (test before val before train), the others go to `duplicates`.
        channel_names: one per channel.
        folds: official ones; without them those of an earlier index are kept as long as they fit the cases.

    Returns:
        The splits as written.
    """
    rows = sorted(rows, key=lambda row: row["id"])
    listed = {case_id for ids in splits.values() for case_id in ids}
    unlisted = [row["id"] for row in rows if row["id"] not in listed]
    named = {name: tuple(sorted(ids)) for name, ids in sorted(splits.items())}
    named["train"] = tuple(sorted([*named.get("train", ()), *unlisted]))
    groups = same_voxels({row["id"]: row["voxels"] for row in rows})
    kept = kept_splits(path, keep_apart(named, groups))
    known = {row["id"] for row in rows}
    official = tuple({name: tuple(one for one in ids if one in known) for name, ids in fold.items()} for fold in folds)
    dealt = tuple(_fold_apart(fold, kept.named, groups) for fold in official or kept.folds)
    written = Splits(kept.named, dealt, kept.label_order)
    index = {
        "classes": list(classes),
        "spacing_mm": None if spacing_mm is None else [float(value) for value in spacing_mm],
        "channel_names": list(channel_names),
        "num_cases": len(rows),
        "fingerprint": fingerprint(classes, rows),
        "duplicates": groups,
        "cases": [{**row, "counts": [*row["counts"], *[0] * (len(classes) - len(row["counts"]))]} for row in rows],
    }
    write_splits(path, written)
    INDEX_DOCUMENT.write(path / INDEX, index)
    return written.named


def _fold_apart(fold: Fold, named: Fold, groups: Sequence[Sequence[str]]) -> Fold:
    """Return a fold without copies of what it is tested on, be these its own test cases or the named ones."""
    apart = keep_apart({"test": named.get("test", ()), **fold}, groups)
    return {name: ids for name, ids in apart.items() if name in fold or name == DUPLICATES}


def fingerprint(classes: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return sha256 over the class names and the content hash of every case, whatever their order."""
    lines = [json.dumps(list(classes)), *sorted(f"{row['id']} {row['sha256']}" for row in rows)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _read_index(path: Path) -> _Index:
    file = path / INDEX
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; wanted a store, written by `medpretrain3d prepare RAW {path}`")
    if not file.is_file() and (path / CASES).is_dir():
        raise UserError(f"{path}: its preparation did not finish; call `medpretrain3d prepare` again, it goes on")
    if not file.is_file():
        raise UserError(f"{path}: has no {INDEX}, so it is no store; make one with `medpretrain3d prepare RAW STORE`")
    index = INDEX_DOCUMENT.read(file)
    ids = [row["id"] for row in index["cases"]]
    for what, names in (("case", ids), ("class", index["classes"])):
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{file}: {what} '{twice}' is listed twice; {_ADVICE}")
    strangers = {case_id for group in index["duplicates"] for case_id in group} - set(ids)
    if strangers:
        raise UserError(f"{file}: duplicates name '{min(strangers)}', which is no case of it; {_ADVICE}")
    # Classes and hashes of cases are in it, so a class that was taken away by hand is noticed.
    if fingerprint(index["classes"], index["cases"]) != index["fingerprint"]:
        raise UserError(f"{file}: classes or cases are not those its fingerprint was taken of; {_ADVICE}")
    for row in index["cases"]:
        if len(row["counts"]) < len(index["classes"]):
            raise UserError(
                f"{file}: case '{row['id']}' counts objects of {len(row['counts'])} classes, there are "
                f"{len(index['classes'])}; {_ADVICE}"
            )
    return index


def _check_apart(where: str, splits: Mapping[str, Sequence[str]], groups: Sequence[Sequence[str]]) -> None:
    home = {case_id: name for name, ids in splits.items() for case_id in ids}
    for group in groups:
        used = [case_id for case_id in group if home.get(case_id, DUPLICATES) != DUPLICATES]
        for other in used[1:]:
            if home[other] != home[used[0]]:
                raise UserError(
                    f"{where}: '{used[0]}' in '{home[used[0]]}' and '{other}' in '{home[other]}' hold the same "
                    f"voxels; put one of them into '{DUPLICATES}'"
                )
