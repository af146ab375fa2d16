from __future__ import annotations

import json

import numpy as np
import pytest

from medpretrain3d.cli import main
from medpretrain3d.errors import UserError
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.readers import read_scan
from medpretrain3d.store.store import Store
from tests.dicom_files import write_scan

STEP_MM = 2.0
TILT = np.radians(15)
SHAPE = (20, 40, 16)


def tilted_affine() -> np.ndarray:
    """Slices that lean by 15 degrees about x, on a table that moves along z."""
    affine = np.eye(4)
    affine[:3, 1] = (0, np.cos(TILT), np.sin(TILT))
    affine[:3, 2] = (0, 0, STEP_MM)
    affine[:3, 3] = (-10, -20, 50)
    return affine


def ball(affine: np.ndarray, center: np.ndarray, radius_mm: float = 7.0) -> np.ndarray:
    """A ball of 1000 HU in a scan of this affine, with a soft edge of 4 mm."""
    index = np.stack(np.meshgrid(*(np.arange(size) for size in SHAPE), indexing="ij"), axis=-1)
    distance = np.linalg.norm(index @ affine[:3, :3].T + affine[:3, 3] - center, axis=-1)
    return np.rint(1000 * np.clip((radius_mm + 2 - distance) / 4, 0, 1)).astype(int)


def test_a_ball_is_one_again_and_stays_in_its_place(tmp_path):
    affine = tilted_affine()
    center = affine[:3, :3] @ np.array([10, 20, 8]) + affine[:3, 3]
    folder = write_scan(tmp_path, ball(affine, center), affine)
    with pytest.raises(UserError, match=r"gantry tilted by 15.0 degrees.*--straighten"):
        read_scan(folder)
    scan = read_scan(folder, straighten=True)
    axes = scan.affine_lps[:3, :3]
    np.testing.assert_allclose(axes.T @ axes, np.diag([1, 1, (STEP_MM * np.cos(TILT)) ** 2]), atol=1e-9)
    index = np.argwhere(scan.voxels[0] > 500)
    place = index @ axes.T + scan.affine_lps[:3, 3]
    np.testing.assert_allclose(place.mean(axis=0), center, atol=0.1)
    np.testing.assert_allclose(np.linalg.norm(place - center, axis=1).max(), 7, atol=0.5)
    assert len(index) * np.prod(Grid(SHAPE, affine).spacing_mm) * np.cos(TILT) == pytest.approx(
        4 / 3 * np.pi * 7**3, rel=0.03
    )
    assert scan.voxels.dtype.kind == "i"


def test_nothing_of_any_slice_is_lost(tmp_path):
    affine = tilted_affine()
    scan = read_scan(write_scan(tmp_path, np.full(SHAPE, 300), affine), straighten=True)
    shift = STEP_MM * np.sin(TILT) * 15  # of the last slice against the first, in pixels of 1 mm
    assert scan.voxels.shape[2] == 40 + int(np.ceil(shift))
    assert (scan.voxels[0] == 300).all()  # the lowest value fills what no slice covers


def test_a_straight_scan_stays_as_it_is(tmp_path):
    voxels = np.random.default_rng(0).integers(-900, 900, SHAPE)
    folder = write_scan(tmp_path, voxels)
    np.testing.assert_array_equal(read_scan(folder, straighten=True).voxels, read_scan(folder).voxels)


def test_prepare_straightens_where_it_is_asked_to(tmp_path, capsys):
    noise = np.random.default_rng(0).integers(-900, 900, SHAPE)
    write_scan(tmp_path / "raw/a", noise, tilted_affine())
    store = tmp_path / "store"
    assert main(["prepare", str(tmp_path / "raw"), str(store)]) == 2
    assert json.loads((store / "skipped.json").read_text())[0]["kind"] == "gantry tilt"
    assert main(["prepare", str(tmp_path / "raw"), str(store), "--straighten"]) == 0
    assert Store(store).case_ids == ("a",)
