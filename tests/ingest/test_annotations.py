from __future__ import annotations

import itertools
import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.annotation import annotate
from medpretrain3d.ingest.importers.annotations import BoxAnnotation, PointAnnotation, SphereAnnotation
from medpretrain3d.ingest.importers.base import ANATOMY, IGNORE, RawCase
from medpretrain3d.ingest.objects import find_objects
from medpretrain3d.ingest.prepare import prepare
from medpretrain3d.ingest.prepare_options import PrepareOptions
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.store import Store
from medpretrain3d.store.volume import read_volume
from tests.dicom_files import write_scan

# Columns 0.5 mm, rows 2 mm, slices 4 mm apart; the first voxel's middle at (10, 20, 30) mm.
AXIAL = Grid((40, 30, 20), np.array([[0.5, 0, 0, 10], [0, 2, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1.0]]))


def test_marks_in_three_frames_give_boxes_one_can_compute():
    assert BoxAnnotation((1, 2, 3), (4, 6, 8), "voxels").box_vox(AXIAL).tolist() == [1, 2, 3, 4, 6, 8]
    # The voxel (4, 5, 6) fills 11.75..12.25, 29..31, 52..56 mm.
    assert BoxAnnotation((11.75, 29, 52), (12.25, 31, 56), "lps_mm").box_vox(AXIAL).tolist() == [4, 5, 6, 5, 6, 7]
    # Slices 2 to 4, named by their middles, in either order.
    assert BoxAnnotation((1, 2, 38), (4, 6, 46), "slices").box_vox(AXIAL).tolist() == [1, 2, 2, 4, 6, 5]
    assert BoxAnnotation((1, 2, 46), (4, 6, 38), "slices").box_vox(AXIAL).tolist() == [1, 2, 2, 4, 6, 5]
    # A sphere of 8 mm around the middle of voxel (10, 10, 10): 8 columns, 2 rows, 1 slice to each side.
    sphere = [2.5, 8.5, 9.5, 18.5, 12.5, 11.5]
    assert SphereAnnotation((15, 40, 70), 8).box_vox(AXIAL).tolist() == sphere
    assert SphereAnnotation((10.5, 10.5, 10.5), 8, "voxels").box_vox(AXIAL).tolist() == sphere
    assert SphereAnnotation((10.5, 10.5, 70), 8, "slices").box_vox(AXIAL).tolist() == sphere


def test_a_slice_that_is_not_there_or_a_series_that_is_not_axial_is_refused():
    with pytest.raises(UserError, match=r"no slice at z = 40 mm, slices are 4 mm apart"):
        BoxAnnotation((0, 0, 40), (1, 1, 46), "slices").box_vox(AXIAL)
    with pytest.raises(UserError, match="no slice at z = 130 mm"):
        SphereAnnotation((0, 0, 130), 1, "slices").box_vox(AXIAL)
    coronal = Grid((4, 4, 4), np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]))
    with pytest.raises(UserError, match="the series is not axial"):
        BoxAnnotation((0, 0, 0), (1, 1, 1), "slices").box_vox(coronal)


# Each of 9 slices lies 0.5 mm, which is half a pixel, further along the rows than the one below.
TILTED = np.array([[1, 0, 0, 0], [0, 1, 0.5, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])
LEANING = (
    # Slice 4 was moved by 2 rows, slice 6 by 3: the hull of the box on slices 4 to 6 has a row more than the box.
    ((10, 10, 4), (14, 14, 7), "voxels", [10, 12, 4, 14, 17, 7]),
    ((10, 10, 4.5), (14, 14, 6.5), "voxels", [10, 12, 4.5, 14, 17, 6.5]),
    ((10, 10, 4), (14, 14, 5), "voxels", [10, 12, 4, 14, 16, 5]),
    ((10, 10, 8), (14, 14, 12), "slices", [10, 12, 4, 14, 17, 7]),
    ((9.5, 11.5, 7), (13.5, 16.5, 13), "lps_mm", [10, 12, 4, 14, 17, 7]),
)


@pytest.mark.parametrize("leans", [0.5, -0.5], ids=["along the rows", "against the rows"])
def test_marks_in_pixels_go_where_the_slices_of_a_tilted_gantry_are_moved_to(tmp_path, leans):
    affine = TILTED * [1, 1, leans / 0.5, 1]
    affine[2, 2] = 2
    file = write_scan(tmp_path / "a", np.zeros((24, 24, 9), int), affine)
    image = read_volume(file, straighten=True)
    low = 0 if leans > 0 else 4  # rows that the grid grew by before the first
    assert image.source_grid.shape == (24, 28, 9)
    np.testing.assert_allclose(image.source_grid.affine_lps[:3, 3], [0, -low, 0], atol=1e-9)
    for k in (0, 3, 8):
        point = PointAnnotation((10.5, 10.5, k + 0.5), "voxels").box_vox(image.source_grid, image.tilted_grid)
        np.testing.assert_allclose(point, [10.5, 10.5 + low + leans * k, k + 0.5] * 2)
        named = SphereAnnotation((10.5, 10.5, 2 * k), 2, "slices").box_vox(image.source_grid, image.tilted_grid)
        np.testing.assert_allclose((named[:3] + named[3:]) / 2, point[:3])
        np.testing.assert_allclose(named[3:] - named[:3], [2, 2, 1])


@pytest.mark.parametrize(("low", "high", "frame", "expected"), LEANING)
def test_a_box_on_slices_of_a_tilted_gantry_becomes_the_hull_of_its_parts(tmp_path, low, high, frame, expected):
    image = read_volume(write_scan(tmp_path / "a", np.zeros((24, 24, 9), int), TILTED), straighten=True)
    box = BoxAnnotation(low, high, frame)
    np.testing.assert_allclose(box.box_vox(image.source_grid, image.tilted_grid), expected)
    case = RawCase("a", (tmp_path,), annotations=(box,), ignore=(box,))
    found = annotate(case, "components", 1, image)
    i0, j0, k0, i1, j1, k1 = expected
    np.testing.assert_allclose(found.objects[0].box_vox, [k0, j0, i0, k1, j1, i1])
    np.testing.assert_allclose(found.ignore_boxes[0], found.objects[0].box_vox)
    moved = "marks in pixels of a tilted gantry's slices, moved with them"
    assert found.remarks.get(moved, 0) == (frame != "lps_mm")
    with pytest.raises(UserError, match="is empty"):
        annotate(replace(case, annotations=(replace(box, high=(low[0] + 4, low[1], high[2])),)), "components", 1, image)


def test_a_box_of_pixels_holds_its_lesion_after_prepare_straightens(tmp_path):
    voxels = np.zeros((24, 24, 9), int)
    voxels[10:14, 10:14, 4:7] = 1000
    write_scan(tmp_path / "raw/a", voxels, TILTED)
    (tmp_path / "raw/boxes.csv").write_text(
        "image,label,x0_vox,y0_vox,z0_vox,x1_vox,y1_vox,z1_vox\na,lesion,10,10,4,14,14,7\n"
    )
    options = PrepareOptions(straighten=True)
    prepare(tmp_path / "raw", tmp_path / "store", options)
    case = Store(tmp_path / "store").case("a")
    bright = np.argwhere(case.read_image()[0] > 400)
    assert case.boxes.tolist() == [[*bright.min(axis=0), *(bright.max(axis=0) + 1)]] == [[4, 12, 10, 7, 17, 14]]
    # A version that left the box where the slices had been noted other options, so that its cases are made again.
    sidecar = tmp_path / "store/cases/a/case.json"
    document = json.loads(sidecar.read_text())
    assert document["options"].pop("moved_marks") is True
    sidecar.write_text(json.dumps(document))
    assert prepare(tmp_path / "raw", tmp_path / "store", options).prepared == 1


def test_a_sphere_in_an_oblique_scan_keeps_its_diameter():
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.5, 1, 2])
    box = SphereAnnotation(tuple(affine[:3, :3] @ [9, 9, 9]), 4).box_vox(Grid((20, 20, 20), affine))
    np.testing.assert_allclose(box, [5.5, 7.5, 8.5, 13.5, 11.5, 10.5])


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 47),
    st.tuples(*[st.floats(0.5, 4.0)] * 3),
    st.one_of(st.none(), st.tuples(*[st.floats(0.6, 5.0)] * 3)),
    st.tuples(*[st.floats(0, 9)] * 3),
    st.tuples(*[st.floats(0.2, 6)] * 3),
)
def test_boxes_without_a_mask_survive_prepare_at_any_orientation_and_spacing(
    tmp_path_factory, orientation, zoom, spacing, low, size
):
    raw = tmp_path_factory.mktemp("boxes")
    order = list(itertools.permutations(range(3)))[orientation % 6]
    flips = np.array(list(itertools.product((1, -1), repeat=3))[orientation // 6])
    affine = np.eye(4)[[*order, 3]] @ np.diag([*(flips * zoom), 1.0])
    affine[:3, 3] = (-210.0, 35.5, 900.0)
    voxels = np.random.default_rng(0).integers(-900, 100, (15, 16, 17)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), raw / "a.nii")
    box = [*low, *(np.array(low) + size).tolist()]
    # Once in voxels of the file, once as an ignore region in RAS mm: edges lie half a voxel beside voxel centres.
    corners = np.array([box[:3], box[3:]]) - 0.5
    ras = np.sort(nibabel.affines.apply_affine(nibabel.load(raw / "a.nii").affine, corners), axis=0).ravel()
    names = [f"{axis}{end}" for end in "01" for axis in "xyz"]
    header = ["image", "ignore", *(f"{name}_vox" for name in names), *(f"{name}_ras_mm" for name in names)]
    rows = [["a.nii", "", *map(repr, box), *[""] * 6], ["a.nii", "1", *[""] * 6, *map(repr, ras.tolist())]]
    (raw / "boxes.csv").write_text("\n".join(",".join(row) for row in [header, *rows]))
    prepare(raw, raw / "store", PrepareOptions(spacing_mm=spacing))
    case = Store(raw / "store").case("a")
    assert not case.has_mask
    for boxes in (case.boxes, case.ignore_boxes):
        np.testing.assert_allclose(case.grid.map_boxes(boxes, case.source_grid), [box], atol=2e-3)


def one_scan(write_nifti, shape=(12, 10, 8)):
    path = write_nifti(np.arange(np.prod(shape), dtype=np.int16).reshape(shape))
    return path, read_volume(path)


def test_marks_are_cut_at_the_edge_and_refused_outside(write_nifti):
    path, image = one_scan(write_nifti)
    edge = RawCase("a", (path,), annotations=(SphereAnnotation((0.5, 5.0, 4.0), 4, "voxels", label=3),))
    (found,) = annotate(edge, "components", 1, image).objects
    restored = image.grid.map_boxes(np.array([found.box_vox]), image.source_grid)
    assert restored.tolist() == [[0, 3, 2, 2.5, 7, 6]]
    assert (found.label, found.id) == (3, 0)
    for annotation in (BoxAnnotation((13, 0, 0), (14, 1, 1), "voxels"), BoxAnnotation((3, 3, 3), (2, 4, 4), "voxels")):
        with pytest.raises(
            UserError,
            match=r": the (box|sphere|point) .*lies outside scan.nii.gz .* or is empty; correct it: is its frame",
        ):
            annotate(RawCase("a", (path,), annotations=(annotation,)), "components", 1, image)
    outside = RawCase("a", (path,), ignore=(SphereAnnotation((-9, 0, 0), 4, "voxels"), edge.annotations[0]))
    assert len(annotate(outside, "components", 1, image).ignore_boxes) == 1


def test_anatomy_is_no_object_and_ignored_values_are_regions():
    labels = np.zeros((6, 6, 6), np.uint16)
    labels[:4, :4, :4] = 1  # the organ
    labels[1:3, 1:3, 1:3] = 2  # its lesion
    labels[5, 5, 4:] = 3
    instances, objects = find_objects(labels, {1: ANATOMY, 2: 0, 3: IGNORE}, "components")
    assert [(one.id, one.label, one.box_vox) for one in objects] == [
        (1, 0, (1, 1, 1, 3, 3, 3)),
        (0, IGNORE, (5, 5, 4, 6, 6, 6)),
    ]
    assert np.count_nonzero(instances) == 8


def test_regions_and_patients_reach_the_store_and_a_changed_mark_prepares_again(write_nifti, tmp_path):
    raw = tmp_path / "raw"
    for number, name in enumerate("ab"):
        write_nifti(np.arange(960, dtype=np.int16).reshape(12, 10, 8) + np.int16(number), f"{name}.nii", folder=raw)
    images = [{"id": 7, "file_name": "a.nii", "patient": "p1"}, {"id": 8, "file_name": "b.nii", "split": "val"}]
    document = {
        "images": images,
        "categories": [{"id": 2, "name": "mass"}, {"id": 1, "name": "nodule"}],
        "annotations": [
            {"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4, 5, 2]},
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 0, 1, 1, 1], "iscrowd": 1},
        ],
    }
    (raw / "annotations.json").write_text(json.dumps(document))
    summary = prepare(raw, tmp_path / "store")
    assert summary.splits == {"train": 1, "val": 1}
    store = Store(tmp_path / "store")
    assert store.classes == ("nodule", "mass")
    a, b = store.case("a"), store.case("b")
    assert (a.sidecar["patient"], b.sidecar["patient"]) == ("p1", None)
    assert a.grid.map_boxes(a.boxes, a.source_grid).tolist() == [[1, 2, 3, 5, 7, 5]]
    assert a.grid.map_boxes(a.ignore_boxes, a.source_grid).tolist() == [[0, 0, 0, 1, 1, 1]]
    assert (a.labels.tolist(), len(b.boxes)) == ([1], 0)  # a case without objects is kept
    document["annotations"][0]["bbox"][3] = 5
    (raw / "annotations.json").write_text(json.dumps(document))
    summary = prepare(raw, tmp_path / "store")
    assert (summary.prepared, summary.reused) == (1, 1)
