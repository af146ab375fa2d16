"""The tables of a plan's page: a header and rows of text and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medpretrain3d.planning import Plan
from medpretrain3d.planning.fingerprint import SPLITS, Fingerprint
from medpretrain3d.store.class_counts import count_objects
from medpretrain3d.store.store import Store


@dataclass(frozen=True)
class PlainTable:
    """Names of columns, and rows; all but the first column are numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def class_table(fingerprint: Fingerprint) -> PlainTable:
    """Return objects by class and split, training cases that hold one, sizes, specks."""
    splits = [split for split in SPLITS if split in fingerprint.counts]
    objects = fingerprint.objects
    rows = []
    for label, name in enumerate(fingerprint.classes):
        edges = objects.edges_mm(label)
        size = " / ".join(f"{edge:.1f}" for edge in np.percentile(edges, (5, 50, 95))) if len(edges) else "-"
        num_specks = int((objects.is_speck & (objects.labels == label)).sum())
        counts = [str(fingerprint.counts[split][label]) for split in splits]
        rows.append([name, *counts, str(fingerprint.cases_with[label]), size, str(num_specks or "-")])
    return PlainTable(["class", *splits, "training cases with it", "longest edge, 5 / 50 / 95 % in mm", "specks"], rows)


def scan_table(fingerprint: Fingerprint, plan: Plan) -> PlainTable:
    """Return the geometry of the scans and what was planned, along each axis."""
    extents = fingerprint.shapes * fingerprint.spacings_mm
    median_scan = plan.report.get("median_scan") or ["-"] * 3

    def along(values: np.ndarray, digits: int) -> list[str]:
        low, middle, high = np.percentile(values, (0, 50, 100), axis=0)
        return [f"{b:.{digits}f} ({a:.{digits}f} to {c:.{digits}f})" for a, b, c in zip(low, middle, high, strict=True)]

    return PlainTable(
        ["median (lowest to highest)", "D", "H", "W"],
        [
            ["spacing in mm", *along(fingerprint.spacings_mm, 2)],
            ["voxels", *along(fingerprint.shapes, 0)],
            ["extent in mm", *along(extents, 0)],
            ["planned spacing in mm", *(f"{edge:g}" for edge in plan.spacing_mm)],
            ["median scan at that spacing, voxels", *map(str, median_scan)],
            ["patch, voxels", *map(str, plan.patch)],
        ],
    )


def split_table(store: Store) -> PlainTable:
    """Return cases and objects of the named splits, and of each fold."""
    rows = [_split_row("named", store, store.splits)]
    rows += [_split_row(f"fold {number}", store, fold) for number, fold in enumerate(store.all_splits.whole_folds())]
    return PlainTable(["", *(f"{split}: cases (objects)" for split in SPLITS)], rows)


def plan_table(plan: Plan) -> PlainTable:
    """Return levels of detection with their strides and anchors."""
    reached = plan.topology.reached[plan.first_level or 0 :]
    assigned = plan.report.get("boxes_per_level") or ["-"] * len(plan.anchors or ())
    rows = [
        [f"level {number + (plan.first_level or 0)}", _times(stride), str(count), ", ".join(map(_times, sizes))]
        for number, (stride, count, sizes) in enumerate(zip(reached, assigned, plan.anchors or (), strict=False))
    ]
    return PlainTable(["", "stride, voxels", "nearest objects", "anchors, voxels (D x H x W)"], rows)


def _split_row(name: str, store: Store, split: Any) -> list[str]:
    cells = []
    for which in SPLITS:
        ids = split.get(which, ())
        cells.append(f"{len(ids)} ({int(count_objects(store, ids).sum())})" if ids else "-")
    return [name, *cells]


def _times(sizes: Sequence[float]) -> str:
    return " x ".join(f"{size:g}" for size in sizes)
