"""ATSS against MONAI: time, and memory beside what goes in and comes out."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from monai.apps.detection.utils.ATSS_matcher import ATSSMatcher as MonaiATSS

from benchmarks.timing import Row, race
from medpretrain3d.detection import AnchorGrid, ATSSMatcher

STRIDES = [(4, 4, 4), (8, 8, 8), (16, 16, 16)]
SIZES = [[(6.0, 6, 6)], [(12.0, 12, 12)], [(24.0, 24, 24)]]


def rows() -> Iterator[Row]:
    for name, shapes, per_cell in (
        ("one anchor a cell", [(64, 64, 64), (32, 32, 32), (16, 16, 16)], 1),
        ("27 anchors a cell", [(22, 22, 20), (11, 11, 10), (6, 6, 5)], 27),
    ):
        grid = AnchorGrid([[(d * (1 + k / 27), h, w) for k in range(per_cell)] for [(d, h, w)] in SIZES])
        anchors, per_level = grid(shapes, STRIDES, "cpu"), grid.per_level(shapes)
        random = torch.Generator().manual_seed(0)
        low = torch.rand(10, 3, generator=random) * 60
        targets = torch.cat([low, low + 5 + torch.rand(10, 3, generator=random) * 20], dim=1)
        cells_per_level = [count // per_cell for count in per_level]  # MONAI counts cells here
        monai = MonaiATSS(num_candidates=4, center_in_gt=False)
        theirs = partial(monai.compute_matches, targets, anchors, cells_per_level, per_cell)
        published = ATSSMatcher(4, guarantee_match=False)(targets, anchors, per_level, per_cell)
        assert torch.equal(published, theirs()[1])
        ours = partial(ATSSMatcher(4), targets, anchors, per_level, per_cell)

        work = f"ATSS, {len(anchors):,} anchors ({name}), 10 objects"
        yield race(work, "monai ATSSMatcher", theirs, ours, bar=15)
        peaks = (peak_mb(theirs), peak_mb(ours))
        yield Row(f"{work}: memory at its peak", "monai ATSSMatcher", *peaks, unit="MB", bar=15)


def peak_mb(run: Callable[[], object]) -> float:
    """How far the resident memory of this process rises while `run` works."""
    ctypes.CDLL(None).malloc_trim(0)  # memory kept from earlier calls would hide what this one takes
    base, peak, done = resident_mb(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(5):
        run()
    done.set()
    watcher.join()
    return peak - base


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * 4096 / 1e6
