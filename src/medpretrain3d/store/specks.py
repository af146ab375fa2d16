"""Components of a label map that are too small to be objects: slips of an annotator's hand, crumbs of a resampling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medpretrain3d.store.case import Case
from medpretrain3d.store.store import Store

SPECK_VOX = 2
"""What is no larger has no shape that could be learned."""
SPECK_SHARE = 1e-3
"""Of the median size of its class: below, a component is a crumb of a larger one. Lesions differ by less."""
SHOWN = 8


def are_specks(cases: Sequence[Case]) -> list[np.ndarray]:
    """Whether each object of each case (N,) is a speck; what was marked by numbers is none, its size being meant."""
    labels = [case.labels for case in cases]
    sizes = [_sizes(case) for case in cases]
    all_labels, all_sizes = np.concatenate(labels), np.concatenate(sizes)
    limits = {label: _limit(all_sizes[all_labels == label]) for label in np.unique(all_labels).tolist()}
    return [
        of_case <= np.array([limits[label] for label in its_labels.tolist()])
        for its_labels, of_case in zip(labels, sizes, strict=True)
    ]


def speck_notes(store: Store) -> list[str]:
    """Return notes on what `prepare` left out for its size, and a line per class with specks, sizes; reads sidecars."""
    if not store.classes:
        return []
    cases = [store.case(case_id) for case_id in store.case_ids]
    is_speck = np.concatenate(are_specks(cases))
    labels = np.concatenate([case.labels for case in cases])
    sizes = np.concatenate([_sizes(case) for case in cases])
    notes = _left_out(store, cases)
    for label in np.unique(labels[is_speck]).tolist():
        small = np.sort(sizes[is_speck & (labels == label)]).astype(int).tolist()
        shown = ", ".join(map(str, small[:SHOWN])) + (" ..." if len(small) > SHOWN else "")
        notes.append(
            f"{store.place}: {len(small)} of {int((labels == label).sum())} objects of class '{store.classes[label]}' "
            f"are specks of {shown} voxels; if they are no objects, prepare with --min-voxels {max(small) + 1}"
        )
    return notes


def _left_out(store: Store, cases: Sequence[Case]) -> list[str]:
    counts = [int(case.sidecar.get("num_too_small", 0)) for case in cases]
    if not any(counts):
        return []
    limits = {case.sidecar["options"]["min_voxels"] for case in cases if case.sidecar.get("num_too_small")}
    return [
        f"{store.place}: {sum(counts)} components smaller than --min-voxels {max(limits)} are background, in "
        f"{sum(count > 0 for count in counts)} of {len(cases)} cases"
    ]


def _sizes(case: Case) -> np.ndarray:
    """Return voxels (N,) of each object in its file, NaN where it has none."""
    if case.has_mask and "object_voxels" not in case.sidecar:  # prepared before they were counted: as its box has
        edges_mm = (case.boxes[:, 3:] - case.boxes[:, :3]).astype(np.float64) * case.grid.spacing_mm
        result: np.ndarray = np.rint(edges_mm.prod(axis=1) / np.prod(case.source_grid.spacing_mm))
        return result
    return np.array([np.nan if one is None else one for one in case.object_voxels], dtype=np.float64)


def _limit(sizes: np.ndarray) -> float:
    known = sizes[~np.isnan(sizes)]
    return max(SPECK_VOX, SPECK_SHARE * float(np.median(known))) if len(known) else SPECK_VOX
