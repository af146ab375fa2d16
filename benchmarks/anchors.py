"""Anchor search on LIDC's nodules against nnDetection's: three sizes per axis by differential evolution."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import differential_evolution

from benchmarks.timing import Row
from medpretrain3d.detection.anchors_search import concentric_iou, optimize_anchor_sizes

NODULES = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "lidc" / "lidc_nodules.csv"
STRIDES = [(4, 4, 4), (8, 8, 8), (16, 16, 16), (32, 32, 32)]


def rows() -> Iterator[Row]:
    if not NODULES.is_file():
        return
    with NODULES.open() as file:
        found = [row for row in csv.DictReader(file) if int(row["n_readers"]) >= 3]
    extents = torch.tensor([[float(row[f"d{axis}_mm"]) for axis in "zyx"] for row in found])
    reached: dict[str, float] = {}

    def theirs() -> None:
        def sizes(per_axis: np.ndarray) -> torch.Tensor:
            finest = torch.tensor(list(product(*per_axis.reshape(3, 3))), dtype=torch.float32)  # 27 per cell
            return torch.cat([finest * 2**level for level in range(len(STRIDES))])

        def loss(per_axis: np.ndarray) -> float:
            return -float(concentric_iou(extents, sizes(per_axis)).amax(dim=1).mean())

        bounds = [(float(extents[:, axis].min()), float(extents[:, axis].max())) for axis in range(3) for _ in range(3)]
        best = differential_evolution(loss, bounds, rng=0, maxiter=30, popsize=10, polish=False)
        reached["theirs"] = -best.fun

    def ours() -> None:
        reached["ours"] = optimize_anchor_sizes(extents, STRIDES, anchors_per_level=27).mean_best_iou

    peer_ms, ours_ms = _milliseconds(theirs), _milliseconds(ours)  # half a minute: once is enough
    assert reached["ours"] >= reached["theirs"]
    told = f"27 anchors, LIDC: mean best IoU {reached['ours']:.3f} to their {reached['theirs']:.3f}"
    yield Row(told, "differential evolution", peer_ms, ours_ms)


def _milliseconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3
