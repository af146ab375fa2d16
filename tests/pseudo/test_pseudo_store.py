"""`medpretrain3d pseudo`: a store of the same scans with other objects."""

from __future__ import annotations

import shutil

import nibabel
import numpy as np
import pytest

from medpretrain3d.cli import main
from medpretrain3d.ingest.patients import PatientPattern
from medpretrain3d.ingest.prepare import prepare
from medpretrain3d.ingest.prepare_options import PrepareOptions
from medpretrain3d.loading.crops import CropReader
from medpretrain3d.loading.object_crops import read_objects
from medpretrain3d.pseudo.organs import organs
from medpretrain3d.store import Store
from medpretrain3d.store.damage import check_store
from medpretrain3d.store.intensity import Window
from medpretrain3d.store.resampled_store import resample_store
from medpretrain3d.store.splits import Splits, write_splits
from tests.pseudo.test_scan import scan

AFFINE = np.diag([-4.0, -4.0, 4.0, 1.0])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three scans with folds and a label order."""
    folder = tmp_path_factory.mktemp("pseudo")
    for number, name in enumerate("abc"):
        nibabel.save(nibabel.Nifti1Image((scan() + number).transpose(2, 1, 0), AFFINE), folder / f"{name}.nii.gz")
    prepare(folder, folder / "store")
    folds = ({"train": ("b",), "val": ("c",)},)
    write_splits(folder / "store", Splits({"train": ("b", "c"), "val": (), "test": ("a",)}, folds, ("c", "b")))
    return folder / "store"


@pytest.fixture(scope="module")
def mr_store(store, tmp_path_factory):
    """One scan whose values have no unit."""
    folder = tmp_path_factory.mktemp("mr")
    nibabel.save(nibabel.Nifti1Image((scan() + 1500).transpose(2, 1, 0), AFFINE), folder / "m.nii.gz")
    prepare(folder, folder / "store", PrepareOptions(unit="any"))
    return folder / "store"


@pytest.fixture(scope="module")
def pseudo(store):
    assert main(["pseudo", str(store), "--pictures", "2"]) == 0
    return store.with_name("store_pseudo")


def content(store):
    names = ("case.json", "mask.b2nd", "image.b2nd", "store.json", "splits.json")
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*")) if path.name in names}


def test_it_has_the_scans_splits_and_hashes_of_the_store_and_objects_of_its_own(store, pseudo):
    source, found = Store(store), Store(pseudo)
    assert found.classes == ("bone", "air", "tissue")
    assert found.all_splits == source.all_splits
    assert found.has_pseudo_objects
    assert not source.has_pseudo_objects
    for case_id in source.case_ids:
        assert found.entries[case_id]["voxels"] == source.entries[case_id]["voxels"]  # by which leakage is seen
        ours, theirs = found.case(case_id), source.case(case_id)
        assert np.array_equal(ours.read_image(), theirs.read_image())
        assert ours.files.image.path.resolve() == theirs.files.image.path.resolve()
        assert ours.boxes[ours.labels == 0].tolist() == [[10, 15, 20, 13, 20, 26], [5, 5, 6, 9, 9, 10]]
    assert check_store(pseudo) == []
    assert (pseudo / "pseudo_objects.png").stat().st_size > 1000


def test_at_another_spacing_they_are_pseudo_objects_still(pseudo, tmp_path):
    resample_store(pseudo, tmp_path / "coarse", (8.0, 8.0, 8.0))
    assert Store(tmp_path / "coarse").has_pseudo_objects


def test_a_killed_call_goes_on_and_other_processes_write_the_same_bytes(store, pseudo, capsys):
    before = content(pseudo)
    shutil.rmtree(pseudo / "cases" / "b")
    (pseudo / "store.json").unlink()
    assert main(["pseudo", str(store), str(pseudo), "--pictures", "0"]) == 0
    assert "3 scans, 2 of them were there" in capsys.readouterr().out
    assert content(pseudo) == before


def test_a_patient_who_is_named_later_is_that_of_the_pseudo_store_too(tmp_path):
    for number in range(2):
        scan_of = (scan() + number).transpose(2, 1, 0)
        (tmp_path / "raw").mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(scan_of, AFFINE), tmp_path / f"raw/p1_{number}.nii.gz")
    words = ["--num-air", "0", "--num-tissue", "0", "--pictures", "0"]
    for options in (PrepareOptions(), PrepareOptions(patients=PatientPattern(r"(p\d)_"))):
        prepare(tmp_path / "raw", tmp_path / "store", options)
        assert main(["pseudo", str(tmp_path / "store"), str(tmp_path / "out"), *words]) == 0
    assert [entry["patient"] for entry in Store(tmp_path / "out").entries.values()] == ["p1", "p1"]


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(store, pseudo, tmp_path):
    assert main(["pseudo", str(store), str(tmp_path / "two"), "--workers", "2"]) == 0
    assert content(tmp_path / "two") == content(pseudo)


def test_other_options_make_every_case_anew_and_pasted_blobs_leave_the_store_as_it_is(store, pseudo, tmp_path, capsys):
    before, out = content(store), tmp_path / "out"
    shutil.copytree(pseudo, out, symlinks=False)
    words = ["pseudo", str(store), str(out), "--num-blob", "2", "--blob-mm", "8", "12", "--num-tissue", "0"]
    assert main([*words, "--pictures", "0"]) == 0
    told = capsys.readouterr().out
    assert "were there" not in told
    assert "blob         6 objects, 2.0 per scan" in told
    blobs = Store(out)
    assert blobs.classes == ("bone", "air", "blob")
    assert not np.array_equal(blobs.case("a").read_image(), Store(store).case("a").read_image())
    assert blobs.entries["a"]["voxels"] == Store(store).entries["a"]["voxels"]
    assert content(store) == before


def test_organ_masks_of_a_segmenter_are_brought_to_the_grid_of_the_store(tmp_path, capsys):
    raw, masks = tmp_path / "raw", tmp_path / "masks"
    raw.mkdir()
    nibabel.save(nibabel.Nifti1Image(scan().transpose(2, 1, 0), AFFINE), raw / "a.nii.gz")
    prepare(raw, tmp_path / "store", PrepareOptions(spacing_mm=(8.0, 8.0, 8.0)))
    only = ["--num-bone", "0", "--num-air", "0", "--num-tissue", "0", "--organs", str(masks), "--pictures", "0"]
    words = ["pseudo", str(tmp_path / "store"), str(tmp_path / "out"), *only]
    assert main(words) == 2
    assert "case a: no masks in" in capsys.readouterr().err
    (masks / "a" / "segmentations").mkdir(parents=True)
    for name, value in (("vertebra", 400), ("muscle", 60)):
        mask = (scan() == value).astype(np.uint8).transpose(2, 1, 0)
        nibabel.save(nibabel.Nifti1Image(mask, AFFINE), masks / "a" / "segmentations" / f"{name}.nii.gz")
    assert main(words) == 0
    case = Store(tmp_path / "out").case("a")
    assert len(case.boxes) == 2
    assert Store(tmp_path / "out").classes == ("organ",)
    muscle = (scan() == 60).nonzero()
    low, high = np.array([axis.min() for axis in muscle]), np.array([axis.max() + 1 for axis in muscle])
    assert np.abs(case.boxes[0] * 2 - [*low, *high]).max() <= 2  # a voxel of the store is two of the scan


def test_organ_masks_are_resampled_where_the_store_has_as_many_voxels_at_another_spacing(tmp_path):
    """101 slices of 1 mm are 101 of 1.009 mm: slices 85 to 95 are 84.24 to 94.15 there, so centers from 84 to 93."""
    image = np.random.default_rng(0).integers(0, 60, (16, 16, 101)).astype(np.int16)
    mask = np.zeros(image.shape, np.uint8)
    mask[4:12, 4:12, 85:95] = 1
    (tmp_path / "raw").mkdir()
    (tmp_path / "organs" / "a").mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), tmp_path / "raw" / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), tmp_path / "organs" / "a" / "kidney.nii.gz")
    for name, spacing_mm, slices in (("native", None, [85, 95]), ("resampled", (1.009, 1.0, 1.0), [84, 94])):
        prepare(tmp_path / "raw", tmp_path / name, PrepareOptions(spacing_mm=spacing_mm))
        case = Store(tmp_path / name).case("a")
        assert case.grid.shape == (101, 16, 16)
        (organ,) = organs(case, tmp_path / "organs")
        assert [organ.box_vox[0], organ.box_vox[3]] == slices


def test_a_cut_object_that_another_hides_in_part_has_its_own_box_and_its_voxels_their_class(tmp_path):
    """Two organs of the same width share half of it: of the larger one half is seen, and its box is not that half."""
    image = (np.arange(32**3, dtype=np.int32) % 100).reshape(32, 32, 32).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(image, AFFINE), tmp_path / "raw.nii.gz")
    prepare(tmp_path, tmp_path / "store", PrepareOptions())
    for name, first, last in (("liver", 4, 20), ("spleen", 12, 24)):
        mask = np.zeros((32, 32, 32), dtype=np.uint8)
        mask[4:20, first:last, 4:28] = 1  # W, H, D
        (tmp_path / "organs" / "raw").mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(mask, AFFINE), tmp_path / "organs" / "raw" / f"{name}.nii.gz")
    nothing_else = [word for kind in ("bone", "air", "tissue") for word in (f"--num-{kind}", "0")]
    words = ["pseudo", str(tmp_path / "store"), "--organs", str(tmp_path / "organs"), "--pictures", "0"]
    assert main([*words, *nothing_else]) == 0
    case = Store(tmp_path / "store_pseudo").case("raw")
    assert case.boxes.tolist() == [[4, 4, 4, 28, 20, 20], [4, 12, 4, 28, 24, 20]]
    assert [bool(number) for number in case.instance_ids] == [True, True]
    assert case.outline_ids.tolist() == [0, case.instance_ids[1]]
    reader, random = CropReader((16, 24, 24), Window()), np.random.default_rng(0)
    placement = reader.draw_placement(case, random)
    _, targets = read_objects(reader, case, (0, 0, 0), placement, random, 0.1).apply()
    assert targets.boxes.tolist() == [[4, 4, 4, 16, 20, 20], [4, 12, 4, 16, 24, 20]]
    assert targets.mask[4:16, 4:24, 4:20].unique().tolist() == [1 + case.labels[0]]


def test_a_store_is_named_by_where_one_is(store, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(store, tmp_path / "here"))
    assert main(["pseudo", ".", "--pictures", "0"]) == 0
    assert len(Store(tmp_path / "here_pseudo")) == len(Store(store))


def test_scans_in_which_nothing_is_found_are_named_and_an_empty_store_is_no_success(store, tmp_path, capsys):
    words = ["pseudo", str(store), str(tmp_path / "out"), "--num-air", "0", "--num-tissue", "0", "--bone-hu", "2000"]
    assert main([*words, "--pictures", "0"]) == 1
    assert "nothing was found in 3 scans: a, b, c" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("unit", "words", "told"),
    [
        ("hu", ["--bright-quantile", "0.9"], "--bright-quantile is of scans without a unit"),
        ("any", ["--bone-hu", "400"], "--bone-hu is of scans in HU"),
        ("any", ["--air-hu", "-400"], "--air-hu is of scans in HU"),
        ("hu", ["--blob-mm", "6", "12"], "--blob-mm changes nothing with --num-blob 0"),
        ("hu", ["--num-tissue", "0", "--sigma-mm", "3", "8"], "--sigma-mm changes nothing with --num-tissue 0"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(store, mr_store, tmp_path, capsys, unit, words, told):
    place = {"hu": store, "any": mr_store}[unit]
    assert main(["pseudo", str(place), str(tmp_path / "out"), *words]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out" / "cases").exists()


@pytest.mark.parametrize("which", ["itself", "pseudo", "another", "folder", "channel"])
def test_what_would_be_wrong_is_refused_in_one_line(which, store, pseudo, tmp_path, capsys):
    (tmp_path / "some.txt").write_text("mine")
    words, told = {
        "itself": ([store, store], "is the store itself"),
        "pseudo": ([pseudo, tmp_path / "out"], "holds pseudo-objects already"),
        "another": ([pseudo.with_name("store"), shutil.copytree(store, tmp_path / "copy")], "store of other objects"),
        "folder": ([store, tmp_path], "is neither empty nor a store"),
        "channel": ([store, tmp_path / "out", "--channel", "3"], "channel 3"),
    }[which]
    assert main(["pseudo", *map(str, words)]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
