"""Copies of one scan with different objects: what is marked in one alone would be background in the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers import RawDataset, layouts
from medpretrain3d.lines import counted
from medpretrain3d.store.case import Case
from medpretrain3d.store.duplicates import same_voxels
from medpretrain3d.store.layout import Layout


def check_copies(
    raws: Sequence[Path], datasets: Sequence[RawDataset], voxels: Mapping[str, str], layout: Layout
) -> list[str]:
    """Refuse a table of a user's own that marks copies of a scan differently; return a warning of other data sets.

    Args:
        raws: folders of the data sets.
        datasets: as they were read.
        voxels: hash of the voxels of each case of the store.
        layout: where the cases lie.

    Raises:
        UserError: names the first two copies.
    """
    notes = []
    for raw, dataset in zip(raws, datasets, strict=True):
        labeled = [case.id for case in dataset.cases if dataset.classes and case.split != "unlabelled"]
        pairs = list(_differing({one: voxels[one] for one in labeled if one in voxels}, layout))
        if not pairs:
            continue
        one, other = pairs[0]
        message = f"'{one}' and '{other}' hold the same voxels and different objects, and each is trained on by itself"
        if _is_own_table(dataset):
            raise UserError(
                f"{dataset.tables[0]}: {message}; name one of them in the rows of both, or make their objects the same"
            )
        more = f" (and {counted(len(pairs) - 1, 'more pair')})" if len(pairs) > 1 else ""
        notes.append(f"{raw}: {message}{more}; keep the one that is right")
    return notes


def _differing(voxels: Mapping[str, str], layout: Layout) -> Iterator[tuple[str, str]]:
    for first, *others in same_voxels(voxels):
        objects = _objects(first, layout)
        yield from ((first, other) for other in others if _objects(other, layout) != objects)


def _objects(case_id: str, layout: Layout) -> list[tuple[int, tuple[float, ...]]]:
    """Return class and box of each object of a case, -1 for ignore regions; to a hundredth of a voxel."""
    files = layout.find(case_id)
    if files is None:
        raise UserError(f"case {case_id}: is gone from {layout.store}; prepare it again")
    sidecar = Case.open(files).sidecar
    found = [(one["label"], one["box_vox"]) for one in sidecar["instances"]]
    found += [(-1, box) for box in sidecar["ignore_boxes_vox"]]
    return sorted((label, tuple(round(edge, 2) + 0.0 for edge in box)) for label, box in found)


def _is_own_table(dataset: RawDataset) -> bool:
    """Return whether its objects stand in a table or document that whoever prepares it has written."""
    has_table = bool(dataset.tables) and not any(case.labels for case in dataset.cases)
    return has_table and layouts()[dataset.layout].kind == "generic"
