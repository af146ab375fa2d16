"""Stores that several tests read."""

from __future__ import annotations

import numpy as np
import pytest

from medpretrain3d.store.grid import Grid
from medpretrain3d.store.layout import ContainerLayout, write_case
from medpretrain3d.store.store import CaseData, Instance, write_index

GRID = Grid((80, 96, 96), np.eye(4)[[2, 1, 0, 3]])


@pytest.fixture(scope="module")
def uploaded(tmp_path_factory):
    """Two stores of the same two cases, of containers and of folders."""
    root = tmp_path_factory.mktemp("uploaded")
    mask = np.zeros(GRID.shape, np.uint16)
    mask[1:4, 1:4, 1:4] = 1
    for name in ("packed", "folders"):
        rows = []
        place = ContainerLayout(root / name) if name == "packed" else root / name
        for number, case_id in enumerate("ab"):
            image = np.random.default_rng(number).integers(-1000, 1000, (1, *GRID.shape)).astype(np.int16)
            objects = [Instance(1, 0, (1.0, 1, 1, 4, 4, 4))]
            rows.append(write_case(place, CaseData(case_id, image, GRID, GRID, "x", objects, mask)))
        write_index(root / name, ["x"], (1.0, 1.0, 1.0), rows, {"val": ["b"]})
    return root
