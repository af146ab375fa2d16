"""Segmentation objects that highdicom wrote, as labels."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from highdicom.sr.coding import Code

from medpretrain3d.cli import main
from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.base import ANATOMY, RawCase
from medpretrain3d.ingest.label_layers import read_label_layers
from medpretrain3d.ingest.segmentation_object import read_segments
from medpretrain3d.store.case import Case
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.readers import read_scan
from medpretrain3d.store.store import Store
from medpretrain3d.store.volume import Volume
from tests.dicom_files import AXIAL, write_scan

SHAPE = (24, 20, 8)
VOXELS = np.random.default_rng(0).integers(-900, 1500, SHAPE)
GRID = Grid(SHAPE, AXIAL)


def block(*corners: int) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    i0, j0, k0, i1, j1, k1 = corners
    mask[i0:i1, j0:j1, k0:k1] = True
    return mask


LIVER, TUMOR = block(2, 3, 1, 18, 16, 7), block(5, 6, 2, 9, 11, 5)


def write_segments(folder, kind="BINARY", masks=(LIVER, TUMOR), names=("Liver", "Läsion 1")):
    """A segmentation of the series in a folder, beside it."""
    images = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    tumor = Code("M-01000", "SRT", "Morphologically Altered Structure")
    descriptions = [
        hd.seg.SegmentDescription(number, name, tumor, tumor, hd.seg.SegmentAlgorithmTypeValues.MANUAL)
        for number, name in enumerate(names, start=1)
    ]
    array = np.stack([mask.transpose(2, 1, 0) for mask in masks], axis=-1)  # (slice, row, column, segment)
    if kind == "LABELMAP":
        array = np.select([masks[1].transpose(2, 1, 0), masks[0].transpose(2, 1, 0)], [2, 1]).astype(np.uint8)
    written = hd.seg.Segmentation(
        images,
        array.astype(np.float32) * 0.8 if kind == "FRACTIONAL" else array.astype(np.uint8),
        hd.seg.SegmentationTypeValues(kind),
        descriptions,
        "1.2.3.500",
        7,
        "1.2.3.501",
        1,
        "maker",
        "model",
        "1",
        "1",
        omit_empty_frames=True,
    )
    path = folder.parent / "seg.dcm"
    written.save_as(path)
    return path


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_segments_come_back_on_the_scans_grid(tmp_path, kind):
    folder = write_scan(tmp_path / "ct", VOXELS)
    masks, remarks = read_segments(write_segments(folder, kind), GRID)
    liver = LIVER & ~TUMOR if kind == "LABELMAP" else LIVER  # a label map holds one segment per voxel
    assert list(masks) == [1, 2]
    np.testing.assert_array_equal(masks[1].whole(), liver)
    np.testing.assert_array_equal(masks[2].whole(), TUMOR)
    assert bool(remarks) == (kind == "FRACTIONAL")


def test_frames_are_placed_whichever_way_the_scans_file_counts(tmp_path):
    """On a NIfTI file of the same scan: slices first, two axes turned around."""
    path = write_segments(write_scan(tmp_path / "ct", VOXELS))
    turned = AXIAL[:, [2, 0, 1, 3]] @ np.diag([-1, -1, 1, 1])
    turned[:3, 3] = AXIAL[:3, 2] * (SHAPE[2] - 1) + AXIAL[:3, 0] * (SHAPE[0] - 1)
    masks, _ = read_segments(path, Grid((8, 24, 20), turned))
    np.testing.assert_array_equal(masks[2].whole(), TUMOR.transpose(2, 0, 1)[::-1, ::-1])


def test_segments_on_another_grid_or_partly_outside(tmp_path):
    path = write_segments(write_scan(tmp_path / "ct", VOXELS))
    shifted = AXIAL.copy()
    shifted[2, 3] = 1.0
    with pytest.raises(UserError, match=r"lies between voxels of the scan, by up to 0\.4"):
        read_segments(path, Grid(SHAPE, shifted))
    with pytest.raises(UserError, match="lies between voxels of the scan"):
        read_segments(path, Grid(SHAPE, AXIAL @ np.diag([2, 2, 1, 1])))
    masks, remarks = read_segments(path, GRID.crop((0, 0, 0), (24, 20, 3)))
    np.testing.assert_array_equal(masks[1].whole(), LIVER[:, :, :3])
    assert sum(remarks.values()) == 4 + 2  # frames of slices 3 to 6 and 3 to 4


def test_of_many_segments_only_what_the_wanted_ones_span_is_kept(tmp_path):
    """A mask of the scan for each of 60 was a byte per voxel and segment, also of those that are no objects."""
    shape = (40, 40, 60)
    folder = write_scan(tmp_path / "ct", np.zeros(shape, int))
    masks = [np.zeros(shape, dtype=bool) for _ in range(60)]
    for number, mask in enumerate(masks):
        mask[5:9, 5 : 9 + number % 3, number : number + 2] = True  # each overlaps the next
    path = write_segments(folder, masks=masks, names=[f"rib {number}" for number in range(60)])
    grid = Grid(shape, AXIAL)
    image = Volume(np.zeros((1, 1, 1, 1), np.int16), grid, grid)
    classes = {number + 1: (ANATOMY if number % 2 else number) for number in range(60)}
    case = RawCase("a", (folder,), path, classes)
    read_label_layers(path, case, image)  # what is imported takes memory, too
    tracemalloc.start()
    labels = read_label_layers(path, case, image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * np.prod(shape)  # in bytes; it was 73
    (only,) = labels.maps
    expected = np.zeros(shape, np.uint16)
    for value, number in enumerate(range(0, 60, 2), start=1):
        expected[masks[number]] = value
    np.testing.assert_array_equal(only.array[0], expected.transpose(2, 1, 0))
    assert labels.class_of_value == dict(enumerate(range(0, 60, 2), start=1))
    found, _ = read_segments(path, grid, wanted={3, 4})
    assert list(found) == [3, 4]
    assert found[3].low == (5, 5, 2)
    assert found[3].mask.shape == (4, 6, 2)
    np.testing.assert_array_equal(found[4].whole(), masks[3])


def test_segments_become_objects_of_a_prepared_case(tmp_path, capsys):
    write_segments(write_scan(tmp_path / "raw/ct", VOXELS))
    assert main(["prepare", str(tmp_path / "raw"), str(tmp_path / "store")]) == 0
    assert "it has 1 DICOM segmentations" in capsys.readouterr().out
    store = Store(tmp_path / "store")
    assert store.classes == ("Liver", "Läsion 1")
    (case_id,) = store.case_ids
    case = Case.open(tmp_path / "store/cases" / case_id)
    boxes = np.round(case.grid.map_boxes(case.boxes, case.source_grid), 6).tolist()
    assert dict(zip(case.labels.tolist(), boxes, strict=True)) == {0: [2, 3, 1, 18, 16, 7], 1: [5, 6, 2, 9, 11, 5]}


def test_on_a_tilted_gantry_it_is_straightened_with_its_scan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slices lean about x, and each lies half a pixel of 1 mm further along y than the last."""
    tilt = np.arcsin(0.25)  # of steps of 2 mm
    tilted = np.eye(4)
    tilted[:3, 1], tilted[:3, 2] = (0, np.cos(tilt), np.sin(tilt)), (0, 0, 2)
    folder = write_scan(tmp_path / "raw/ct", VOXELS, tilted)
    write_segments(folder)
    call = ["prepare", str(tmp_path / "raw"), str(tmp_path / "store"), "--option", "classes=lesion:L*sion*"]
    assert main(call) == 2  # nothing is left
    assert main([*call, "--straighten"]) == 0
    assert "moved with them to the nearest voxel" in capsys.readouterr().out
    scan = read_scan(folder, straighten=True)
    grid = Grid(scan.voxels.shape[1:], scan.affine_lps)
    masks, remarks = read_segments(tmp_path / "raw/seg.dcm", grid, is_straightened=True)
    assert [one.mask.sum() for one in masks.values()] == [
        LIVER.sum(),
        TUMOR.sum(),
    ]  # each pixel once, whatever is rounded
    assert sum(remarks.values()) > 0
    place = np.argwhere(masks[2].whole()) @ grid.affine_lps[:3, :3].T + grid.affine_lps[:3, 3]
    truth = np.argwhere(TUMOR) @ tilted[:3, :3].T
    assert np.abs(place.mean(axis=0) - truth.mean(axis=0)).max() < 0.5
    assert np.abs(np.sort(place[:, 1]) - np.sort(truth[:, 1])).max() <= 0.5 + 1e-6
    (case_id,) = Store(tmp_path / "store").case_ids
    assert Case.open(tmp_path / "store/cases" / case_id).object_voxels == [TUMOR.sum()]
    with pytest.raises(UserError, match="between voxels of the scan"):
        read_segments(tmp_path / "raw/seg.dcm", grid)
    apart = grid.affine_lps.copy()
    apart[:3, 3] += apart[:3, 2] / 2  # between two slices
    with pytest.raises(UserError, match=r"between voxels of the scan, by up to 0\.5"):
        read_segments(tmp_path / "raw/seg.dcm", Grid(grid.shape, apart), is_straightened=True)
