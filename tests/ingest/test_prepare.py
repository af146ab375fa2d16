from __future__ import annotations

import itertools
import json
import os
import re
import shutil

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medpretrain3d.cli import main
from medpretrain3d.errors import UserError
from medpretrain3d.ingest import prepare_case as prepare_module
from medpretrain3d.ingest.objects import find_objects
from medpretrain3d.ingest.prepare import prepare
from medpretrain3d.ingest.prepare_options import PrepareOptions
from medpretrain3d.store.resampled_store import resample_store
from medpretrain3d.store.store import Store
from medpretrain3d.store.targets import targets_json


def content_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_components_are_objects_with_exact_boxes(make_dataset, tmp_path):
    summary = prepare(make_dataset(["a", "b"]), tmp_path / "store")
    assert (summary.prepared, summary.reused, summary.skipped, summary.splits) == (2, 0, (), {"train": 2})
    store = Store(tmp_path / "store")
    assert (store.classes, store.channel_names, store.spacing_mm) == (("nodule", "vessel"), ("CT",), None)
    case = store.case("a")
    # The file is (i, j, k) in RAS: D = k, H = 9 - j, W = 11 - i.
    restored = case.grid.map_boxes(case.boxes, case.source_grid)
    assert sorted(zip(case.labels.tolist(), restored.tolist(), strict=True)) == [
        (0, [1, 1, 1, 4, 4, 4]),
        (0, [8, 6, 5, 10, 8, 7]),
        (1, [6, 2, 1, 7, 9, 2]),
    ]
    assert store.entries["a"]["counts"] == [2, 1]
    np.testing.assert_array_equal(case.read_label_map() > 0, case.read_image()[0] == 60)


def test_a_mask_is_on_the_grid_of_its_image_whatever_the_last_digit_of_its_spacing(tmp_path, write_nifti):
    """128 columns of 0.703125 mm, said to be 0.7032 mm in the label map: 90 columns of 1 mm, and not 91 in the mask."""
    image, labels = np.random.default_rng(0).integers(-900, 400, (128, 100, 20)), np.zeros((128, 100, 20), np.uint8)
    labels[100:127, 50:60, 4:10] = 1
    write_nifti(image.astype(np.int16), "raw/imagesTr/a.nii.gz", np.diag([0.703125, 0.703125, 3, 1]))
    raw = write_nifti(labels, "raw/labelsTr/a.nii.gz", np.diag([0.7032, 0.7032, 3, 1])).parents[1]
    (raw / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": {"background": 0, "x": 1}}))
    prepare(raw, tmp_path / "prepared", PrepareOptions(spacing_mm=(3.0, 1.0, 1.0)))
    case = Store(tmp_path / "prepared").case("a")
    assert case.read_instances().shape == case.read_image().shape[1:] == case.grid.shape == (20, 71, 90)
    prepare(raw, tmp_path / "native")
    resample_store(tmp_path / "native", tmp_path / "resampled", (3.0, 1.0, 1.0))
    assert Store(tmp_path / "resampled").fingerprint == Store(tmp_path / "prepared").fingerprint


@pytest.mark.parametrize("containers", [False, True])
def test_copies_of_a_scan_that_a_table_marks_differently_are_refused(tmp_path, write_nifti, containers):
    raw, store, table = tmp_path / "raw", tmp_path / "store", tmp_path / "raw/boxes.csv"
    for name in ("a", "b", "other"):
        write_nifti(
            np.random.default_rng(name == "other").integers(-900, 60, (12, 12, 12), np.int16), f"raw/{name}.nii"
        )
    head, row = "image,x_vox,y_vox,z_vox,diameter_vox\n", "{},{},5,5,4\n"
    table.write_text(head + row.format("a.nii", 4) + row.format("b.nii", 7) + row.format("other.nii", 7))
    for _ in range(2):
        with pytest.raises(UserError, match=r"boxes\.csv: 'a' and 'b' hold the same voxels and different objects"):
            prepare(raw, store, containers=containers)
        assert not (store / "store.json").exists()
    table.write_text(head + row.format("a.nii", 4) + "b.nii,,,,\n" + row.format("other.nii", 7))  # said to have none
    with pytest.raises(UserError, match="'a' and 'b' hold the same voxels"):
        prepare(raw, store)
    table.write_text(head + row.format("a.nii", 4) + row.format("a.nii", 7) + row.format("other.nii", 7))
    prepare(raw, store)
    assert {case_id: row["num_objects"] for case_id, row in Store(store).entries.items()} == {
        "a": 2,
        "b": 0,
        "other": 1,
    }
    assert Store(store).splits["train"] == ("a", "other")
    table.write_text(head + row.format("a.nii", 4) + row.format("b.nii", 4))
    prepare(raw, store)  # copies with the same objects are no contradiction


def test_label_maps_of_copies_that_differ_are_said(make_dataset, tmp_path):
    raw = make_dataset(["a", "b"])
    shutil.copy(raw / "imagesTr/a_0000.nii.gz", raw / "imagesTr/b_0000.nii.gz")
    assert not any("different objects" in one for one in prepare(raw, tmp_path / "same").report.warnings)
    mask = nibabel.load(raw / "labelsTr/b.nii.gz")
    less = np.asarray(mask.dataobj) * (np.asarray(mask.dataobj) == 1)
    nibabel.save(nibabel.Nifti1Image(less.astype(np.uint8), mask.affine), raw / "labelsTr/b.nii.gz")
    warnings = prepare(raw, tmp_path / "store").report.warnings
    assert any("'a' and 'b' hold the same voxels and different objects" in one for one in warnings)


def test_labels_as_objects_and_small_ones_left_out(make_dataset, tmp_path):
    raw = make_dataset(["a"], objects="labels")
    prepare(raw, tmp_path / "by_label")
    case = Store(tmp_path / "by_label").case("a")
    assert case.labels.tolist() == [0, 1]
    assert case.grid.map_boxes(case.boxes, case.source_grid).tolist()[0] == [1, 1, 1, 10, 8, 7]
    # The option outranks dataset.json; 2^3 = 8 and 7 voxels are below 9, 3^3 = 27 is not.
    prepare(raw, tmp_path / "large", PrepareOptions(objects="components", min_voxels=9))
    case = Store(tmp_path / "large").case("a")
    assert case.labels.tolist() == [0]
    assert np.count_nonzero(case.read_instances()) == 27


def test_corners_join_components_and_classes_never_do():
    labels = np.zeros((4, 4, 4), np.uint16)
    labels[0, 0, 0] = labels[1, 1, 1] = 1
    labels[2, 2, 2] = 2
    labels[0, 0, 3] = 1
    instances, objects = find_objects(labels, {1: 0, 2: 1}, "components")
    assert [(one.label, one.box_vox) for one in objects] == [
        (0, (0, 0, 0, 2, 2, 2)),
        (0, (0, 0, 3, 1, 1, 4)),
        (1, (2, 2, 2, 3, 3, 3)),
    ]
    assert instances[1, 1, 1] == 1
    assert instances[2, 2, 2] == 3


def test_instances_and_their_table(make_dataset, tmp_path, write_nifti):
    raw = make_dataset(["a", "b"], instances=True, labels={"0": "nodule", "1": "mass"})
    (raw / "labelsTr/a.json").write_text(json.dumps({"instances": {"1": 1, "2": 0}}))
    (raw / "labelsTr/b.json").write_text(json.dumps({"instances": {"1": 1, "2": 0, "7": 0}}))
    summary = prepare(raw, tmp_path / "store")
    assert "instances 7 of the table have no voxel" in summary.skipped[0]["reason"]
    case = Store(tmp_path / "store").case("a")
    assert case.labels.tolist() == [1, 0]  # instance 1 is of two parts and stays one object
    assert case.grid.map_boxes(case.boxes, case.source_grid).tolist()[0] == [1, 1, 1, 10, 8, 7]


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 47),
    st.tuples(*[st.floats(0.5, 4.0)] * 3),
    st.one_of(st.none(), st.tuples(*[st.floats(0.6, 5.0)] * 3)),
    st.tuples(*[st.integers(0, 9)] * 3),
    st.tuples(*[st.integers(1, 6)] * 3),
)
def test_boxes_survive_prepare_at_any_orientation_and_spacing(tmp_path_factory, orientation, zoom, spacing, low, size):
    root = tmp_path_factory.mktemp("any")
    order = list(itertools.permutations(range(3)))[orientation % 6]
    flips = np.array(list(itertools.product((1, -1), repeat=3))[orientation // 6])
    affine = np.eye(4)[[*order, 3]] @ np.diag([*(flips * zoom), 1.0])
    affine[:3, 3] = (-210.0, 35.5, 900.0)
    mask = np.zeros((15, 16, 17), np.uint8)
    mask[tuple(slice(a, a + n) for a, n in zip(low, size, strict=True))] = 1
    for folder, name, array in [("imagesTr", "a_0000", mask.astype(np.int16) * 50), ("labelsTr", "a", mask)]:
        (root / "raw" / folder).mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(array, affine), root / "raw" / folder / f"{name}.nii")
    (root / "raw/dataset.json").write_text(json.dumps({"labels": {"background": 0, "x": 1}}))
    prepare(root / "raw", root / "store", PrepareOptions(spacing_mm=spacing))
    case = Store(root / "store").case("a")
    restored = case.grid.map_boxes(case.boxes, case.source_grid)
    np.testing.assert_allclose(restored, [[*low, *np.add(low, size)]], atol=1e-3)
    if spacing is not None:
        np.testing.assert_allclose(case.grid.spacing_mm, spacing, rtol=1e-6)
    if case.instance_ids[0]:
        inside = np.argwhere(case.read_instances())
        assert (inside.min(axis=0) >= case.boxes[0, :3] - 0.501).all()
        # The last voxel may reach over the end of the volume, and then repeats what lies there.
        high = np.where(case.boxes[0, 3:] > np.array(case.grid.shape) - 1, case.grid.shape, case.boxes[0, 3:] + 0.501)
        assert (inside.max(axis=0) + 1 <= high).all()


def test_an_object_too_small_for_the_spacing_keeps_its_box(make_dataset, tmp_path):
    prepare(make_dataset(["a"]), tmp_path / "store", PrepareOptions(spacing_mm=(6.0, 6.0, 6.0)))
    case = Store(tmp_path / "store").case("a")
    assert len(case.boxes) == 3
    assert 0 in case.instance_ids
    assert set(np.unique(case.read_instances())) == {0, *case.instance_ids.tolist()}


def test_finished_cases_are_kept_until_file_or_option_changes(make_dataset, tmp_path):
    raw, store = make_dataset(["a", "b", "c"]), tmp_path / "store"
    prepare(raw, store)
    before = content_of(store)
    summary = prepare(raw, store)
    assert (summary.prepared, summary.reused) == (0, 3)
    assert content_of(store) == before
    os.utime(raw / "labelsTr/b.nii.gz", ns=(0, 12345))
    shutil.rmtree(store / "cases/c")
    assert prepare(raw, store).reused == 1
    assert prepare(raw, store, PrepareOptions(min_voxels=2)).reused == 0


def test_a_finished_store_survives_options_that_no_case_can_be_made_with(make_dataset, tmp_path):
    raw, store = make_dataset(["a", "b", "c", "d"]), tmp_path / "store"
    prepare(raw, store)
    before = content_of(store)
    with pytest.raises(UserError, match=r"of the first 3 none can be used \(a: .* the store is left as it is"):
        prepare(raw, store, PrepareOptions(spacing_mm=(1000.0, 1000.0, 1000.0)))
    assert content_of(store) == before


def test_a_case_in_which_less_was_measured_is_prepared_again(make_dataset, tmp_path):
    raw, store = make_dataset(["a", "b"]), tmp_path / "store"
    prepare(raw, store)
    file = store / "cases/a/case.json"
    sidecar = json.loads(file.read_text())
    del sidecar["measured"]
    for one in sidecar["statistics"]:
        del one["mean_of_all"], one["std_of_all"]
    file.write_text(json.dumps(sidecar))
    assert Store(store).case("a").statistics[0].mean_of_all is None  # still read
    assert prepare(raw, store).reused == 1
    assert Store(store).case("a").statistics[0].std_of_all > 0


def test_an_interrupted_call_goes_on(make_dataset, tmp_path, monkeypatch):
    raw, store = make_dataset(["a", "b", "c"]), tmp_path / "store"
    write_case = prepare_module.write_case

    def interrupted(folder, content):
        if content.case_id == "b":
            raise KeyboardInterrupt
        return write_case(folder, content)

    monkeypatch.setattr(prepare_module, "write_case", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(raw, store)
    with pytest.raises(UserError, match="did not finish"):
        Store(store)
    monkeypatch.undo()
    summary = prepare(raw, store)
    assert (summary.prepared, summary.reused) == (2, 1)


@pytest.mark.slow
def test_two_workers_write_the_same_bytes(make_dataset, tmp_path):
    raw, options = make_dataset(["a", "b", "c"]), PrepareOptions(spacing_mm=(1.5, 0.7, 1.0))
    prepare(raw, tmp_path / "one", options)
    prepare(raw, tmp_path / "two", options, workers=2)
    assert content_of(tmp_path / "one") == content_of(tmp_path / "two")


def test_bad_cases_are_left_out_with_their_reason(make_dataset, tmp_path, write_nifti, capsys):
    raw = make_dataset(["good", "moved", "nan", "odd", "small", "unlabelled", "zero"])
    write_nifti(np.zeros((12, 10, 8), np.uint8), "labelsTr/moved.nii.gz", np.diag([1, 1, 1.02, 1]), folder=raw)
    write_nifti(np.full((12, 10, 8), np.nan, np.float32), "imagesTr/nan_0000.nii.gz", folder=raw)
    write_nifti(np.full((12, 10, 8), 9, np.uint8), "labelsTr/odd.nii.gz", folder=raw)
    write_nifti(np.zeros((12, 10, 7), np.uint8), "labelsTr/small.nii.gz", folder=raw)
    (raw / "labelsTr/unlabelled.nii.gz").unlink()
    (raw / "imagesTr/zero_0000.nii.gz").write_bytes(b"")
    assert main(["prepare", str(raw), str(tmp_path / "store")]) == 1
    reasons = {
        one["case"]: one["reason"] for one in json.loads((tmp_path / "store/skipped.json").read_text(encoding="utf-8"))
    }
    for case_id, reason in {
        "moved": "affine differs from that of moved_0000.nii.gz: corners are up to 0.15 voxels apart, allowed are 0.1",
        "nan": "960 of 960 voxels are NaN",
        "odd": "label values 9 stand for no class; known are 1, 2",
        "small": "shape (7, 10, 12), small_0000.nii.gz has (8, 10, 12)",
        "unlabelled": "no label file labelsTr/unlabelled.nii.gz",
        "zero": "is empty",
    }.items():
        assert reason in reasons.pop(case_id)
    assert not reasons
    assert Store(tmp_path / "store").case_ids == ("good",)
    told = capsys.readouterr()
    assert "skipped odd: annotation: " in told.err
    counts = "annotation 1, layout 1, mask 2, not finite 1, unreadable 1"
    assert f"1 prepared, 0 reused, 6 skipped ({counts}); cases: train 1" in told.out
    # Called again, the notes stand as long as the files do; a repaired file is taken.
    assert main(["prepare", str(raw), str(tmp_path / "store")]) == 1
    make_dataset(["zero"])
    assert main(["prepare", str(raw), str(tmp_path / "store")]) == 1
    assert "1 prepared, 1 reused, 5 skipped" in capsys.readouterr().out
    assert Store(tmp_path / "store").case_ids == ("good", "zero")


def test_exit_codes_without_trouble_and_without_sense(make_dataset, tmp_path, capsys):
    raw = make_dataset(["a"])
    assert main(["prepare", str(raw), str(tmp_path / "store"), "--spacing-mm", "2", "1", "1"]) == 0
    assert Store(tmp_path / "store").spacing_mm == (2.0, 1.0, 1.0)
    assert main(["prepare", str(raw), str(tmp_path / "store2"), "--spacing-mm", "0", "1", "1"]) == 2
    assert "wanted three positive numbers" in capsys.readouterr().err


def test_raw_folders_merge_and_unlabelled_cases_are_no_negatives(make_dataset, tmp_path, write_nifti):
    raw = make_dataset(["a"])
    image = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    more = write_nifti(image, "more/u.nii.gz").parent
    prepare([raw, more], tmp_path / "mixed")
    assert Store(tmp_path / "mixed").splits["unlabelled"] == ("u",)
    prepare([raw / "imagesTr", more], tmp_path / "images")
    assert Store(tmp_path / "images").splits["train"] == ("a", "u")
    write_nifti(image, "twin/a.nii.gz")
    with pytest.raises(UserError, match=r"case 'a' is in .*raw and in .*twin; rename one"):
        prepare([raw, tmp_path / "twin"], tmp_path / "twins")
    other = make_dataset(["b"], root=tmp_path / "other", labels={"background": 0, "organ": 1})
    with pytest.raises(UserError, match="different classes"):
        prepare([raw, other], tmp_path / "clash")


def test_a_folder_of_other_content_is_left_alone(make_dataset, tmp_path):
    raw = make_dataset(["a", "b"])
    with pytest.raises(UserError, match="neither empty nor a store"):
        prepare(raw, raw)
    prepare(raw, tmp_path / "store")
    before = content_of(tmp_path / "store")
    (raw / "imagesTr/a_0000.nii.gz").unlink()
    with pytest.raises(UserError, match="holds 1 cases that are not in the raw folders, first 'a'"):
        prepare(raw, tmp_path / "store")
    assert content_of(tmp_path / "store") == before


@pytest.mark.parametrize("containers", [False, True])
def test_a_store_within_the_raw_folder_is_no_raw_data(tmp_path, write_nifti, capsys, containers):
    raw, store = tmp_path / "raw", tmp_path / "raw/stores/one"
    for number in range(2):
        image = np.random.default_rng(number).integers(-900, 60, (12, 10, 8)).astype(np.int16)
        write_nifti(image, f"scan_{number}.nii.gz", folder=raw)
    assert prepare(raw, store, containers=containers).prepared == 2
    (raw / "scan_2.nii.gz").write_bytes(b"")
    assert prepare(raw, store).reused == 2
    (store / "store.json").unlink()  # as a killed call leaves it
    assert prepare(raw, store).reused == 2
    report = prepare(raw, tmp_path / "elsewhere").report
    assert [str(one) for one in report.unused] == ["stores that `medpretrain3d prepare` wrote: 1 (stores/one)"]


def test_a_full_disk_stops_and_names_the_place(make_dataset, tmp_path, monkeypatch):
    def no_space(path, data):
        raise OSError(28, "No space left on device")

    raw = make_dataset(["a"])
    monkeypatch.setattr(type(tmp_path), "write_bytes", no_space)
    with pytest.raises(UserError, match=r"store.*disk is full \([0-9,]+ bytes free\)"):
        prepare(raw, tmp_path / "store")
    assert not any((tmp_path / "store/cases").iterdir())


def test_targets_are_in_lps_millimetres_and_in_voxels_of_the_file(make_dataset, tmp_path):
    raw = make_dataset(["a"])
    assert main(["prepare", str(raw), str(tmp_path / "store"), "--spacing-mm", "1.5", "1.5", "1.5"]) == 0
    out = tmp_path / "targets.json"
    assert main(["targets", str(tmp_path / "store"), "--split", "train", "-o", str(out)]) == 0
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document == targets_json(Store(tmp_path / "store"), ["a"])
    assert (document["format"], document["frame"], document["classes"]) == (
        "medpretrain3d-targets",
        "lps_mm",
        ["nodule", "vessel"],
    )
    (entry,) = document["targets"]
    cube = entry["boxes_vox"].index([1, 1, 1, 4, 4, 4])
    # Voxel edges 1 and 4 lie at 0.5 and 3.5 mm in RAS; left and posterior are the negatives of right and anterior.
    assert entry["boxes"][cube] == [-3.5, -3.5, 0.5, -0.5, -0.5, 3.5]
    assert entry["labels"][cube] == 0
    assert entry["case"] == "a"


def test_real_organs_have_the_hulls_of_their_masks(shared_data, tmp_path):
    source, raw = shared_data / "openkbp", tmp_path / "raw"
    case_ids = sorted(path.name[:11] for path in (source / "labelsTr").glob("*.nii.gz"))[:2]
    for folder, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (raw / folder).mkdir(parents=True)
        for case_id in case_ids:
            shutil.copy(source / folder / f"{case_id}{ending}", raw / folder)
    shutil.copy(source / "dataset.json", raw)
    shutil.copy(source / "splits.json", raw)
    prepare(raw, tmp_path / "store", PrepareOptions(spacing_mm=(4.0, 4.0, 4.0), objects="labels"))
    store = Store(tmp_path / "store")
    for case_id in case_ids:
        case = store.case(case_id)
        assert sorted(case.labels.tolist()) == [0, 1, 2, 3, 4]
        mask = np.asarray(nibabel.load(raw / "labelsTr" / f"{case_id}.nii.gz").dataobj)
        restored = case.grid.map_boxes(case.boxes, case.source_grid)
        for label, box in zip(case.labels, restored, strict=True):
            index = np.argwhere(mask == label + 1)
            np.testing.assert_allclose(box, [*index.min(axis=0), *(index.max(axis=0) + 1)], atol=1e-3)


def test_the_time_of_cases_and_the_slowest_of_them_are_told(make_dataset, tmp_path, capsys):
    assert main(["prepare", str(make_dataset(["a", "b"])), str(tmp_path / "store")]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("time: ")]
    number = r"[\d.]+"
    slowest = rf"slowest 1 % \(1\): [ab] {number} s"
    pattern = rf"time: {number} s for 2 cases by 1 worker, {number} cases/s; median {number} s; {slowest}"
    assert re.fullmatch(pattern, line)
    assert main(["prepare", str(tmp_path / "raw"), str(tmp_path / "store")]) == 0
    assert "time: " not in capsys.readouterr().out
