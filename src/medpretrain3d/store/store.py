"""The store: prepared cases on disk, indexed, split, and fingerprinted.

STORE/store.json                 index: classes, spacing, fingerprint, a few facts per case
STORE/splits.json                train, val, test, folds, see data/splits.py
STORE/skipped.json               [{"case", "file", "kind", "reason"}], from STORE/skipped/<id>.json
STORE/report.json                what of the raw folders is in the store and what is not
STORE/cases/<id>/image.b2nd      (C, D, H, W) int16
STORE/cases/<id>/mask.b2nd       (D, H, W) uint16 instance ids, where there is a mask
STORE/cases/<id>/case.json       geometry, objects, hash
STORE/containers/*.tar           or the same three files of many cases, see data/container.py
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from medpretrain3d.errors import UserError
from medpretrain3d.store.case import Case, CaseData, Instance
from medpretrain3d.store.case_files import CaseFiles, case_folder
from medpretrain3d.store.duplicates import DUPLICATES, same_voxels
from medpretrain3d.store.index import INDEX, fingerprint, read_index, write_index_file
from medpretrain3d.store.kept_splits import KeptSplits, kept_splits
from medpretrain3d.store.layout import CONTAINERS, write_case
from medpretrain3d.store.mirror import Mirror
from medpretrain3d.store.pseudo_objects import PSEUDO_OBJECTS
from medpretrain3d.store.sidecar import index_row
from medpretrain3d.store.splits import SPLITS, Fold, Splits, read_splits, write_splits
from medpretrain3d.store.stored_file import StoredFile
from medpretrain3d.store.unit import Unit
from medpretrain3d.urls import url_of

SKIPPED = "skipped.json"

__all__ = ["INDEX", "Case", "CaseData", "Instance", "Store", "case_folder", "index_row", "write_case", "write_index"]


_ADVICE = "prepare the store again"


class Store:
    """A folder written by `medpretrain3d prepare`. Opening it reads the index; cases are opened one by one.

    Args:
        path: the folder, or the URL of one that was uploaded, of which only what is read is fetched.

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
        url = url_of(path)
        self._mirror = None if url is None else Mirror(url, INDEX, (SPLITS,))
        self.path = Path(path) if self._mirror is None else self._mirror.folder
        """Its folder; of a URL the mirror on this machine."""
        self.place = url or str(path)
        """What it was named by."""
        index = read_index(self.path)
        self.classes = index.classes
        self.channel_names = index.channel_names
        self.spacing_mm = index.spacing_mm
        """Along (D, H, W); None where every case keeps its own."""
        self.fingerprint = index.fingerprint
        """Changes when any voxel, box or class of any case does."""
        self.facts = index.facts
        """What the index says of the store."""
        self.entries = index.rows
        """Per case: id, shape, num_objects, counts per class, has_mask, patient, bytes, and two hashes: `voxels` of the
        scan alone, the same for copies under other names, and `sha256` of all that training sees."""
        self.duplicates = index.duplicates
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

    @functools.cached_property
    def has_pseudo_objects(self) -> bool:
        """Whether its objects are no labels but found by `medpretrain3d pseudo`, as its first case tells."""
        return PSEUDO_OBJECTS in self.case(self.case_ids[0]).sidecar

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
        case = Case.open(self._files(case_id))
        if case.labels.max(initial=-1) >= len(self.classes):
            raise UserError(
                f"case {case_id}: {case.folder} has an object of class {case.labels.max()}, the store has "
                f"{len(self.classes)} classes, counted from 0; {_ADVICE}"
            )
        return case

    def _files(self, case_id: str) -> CaseFiles:
        row = self.entries[case_id]
        if "container" not in row:
            return CaseFiles.of_folder(case_folder(self.path, case_id), self._mirror)
        return CaseFiles.of_container(self.path / CONTAINERS / row["container"], case_id, row["extents"], self._mirror)

    def has_file(self, name: str) -> bool:
        """Return whether one of its files is there, by its path within the store.

        Raises:
            UserError: what is behind its URL does not say.
        """
        return (self.path / name).is_file() if self._mirror is None else self._mirror.has(name)

    def size_of(self, name: str) -> int:
        """Return the bytes of one of its files, by its path within the store.

        Raises:
            UserError: it is missing.
        """
        if self._mirror is not None:
            return self._mirror.size(name)
        return StoredFile(self.path / name).size()

    def open_file(self, name: str) -> BinaryIO:
        """Open one of its files, by its path within the store, to be read from its beginning to its end.

        Raises:
            UserError: it cannot be read.
        """
        if self._mirror is not None:
            return self._mirror.open(name)
        try:
            return (self.path / name).open("rb")
        except OSError as error:
            raise UserError(
                f"{self.path / name}: cannot be read ({error.strerror}); prepare the store again"
            ) from error

    @staticmethod
    def is_at(path: Path | str) -> bool:
        """Whether a place is that of a store: a folder with an index, or a URL."""
        return url_of(path) is not None or (Path(path) / INDEX).is_file()

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
) -> KeptSplits:
    """Make a store of cases already written. The index comes last, so a store that has one is complete.

    Args:
        path: the store's folder.
        classes: names, in the order of the labels.
        spacing_mm: along (D, H, W) where all cases share it.
        rows: of every case, as `write_case` gives them.
        splits: cases per split; cases of none are listed under `train`. Of copies that are in several splits one split
            keeps its own (test before val before train), the others go to `duplicates`.
        channel_names: one per channel.
        folds: official ones; without them those of an earlier index are kept, see `kept_splits`.

    Returns:
        The splits as written, and in words what of an earlier file they do not keep.

    Raises:
        UserError: the earlier file of splits names a case twice.
    """
    rows = sorted(rows, key=lambda row: row["id"])
    listed = {case_id for ids in splits.values() for case_id in ids}
    unlisted = [row["id"] for row in rows if row["id"] not in listed]
    named = {name: tuple(sorted(ids)) for name, ids in sorted(splits.items())}
    named["train"] = tuple(sorted([*named.get("train", ()), *unlisted]))
    groups = same_voxels({row["id"]: row["voxels"] for row in rows})
    known = {row["id"] for row in rows}
    official = tuple({name: tuple(one for one in ids if one in known) for name, ids in fold.items()} for fold in folds)
    kept = kept_splits(path, named, official, {row["id"]: row["patient"] for row in rows}, groups)
    facts = {
        "classes": list(classes),
        "spacing_mm": None if spacing_mm is None else [float(value) for value in spacing_mm],
        "channel_names": list(channel_names),
        "fingerprint": fingerprint(classes, ((row["id"], row["sha256"]) for row in rows)),
        "duplicates": groups,
    }
    rows = [{**row, "counts": [*row["counts"], *[0] * (len(classes) - len(row["counts"]))]} for row in rows]
    write_splits(path, kept.splits)
    write_index_file(path, facts, rows)
    return kept


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
