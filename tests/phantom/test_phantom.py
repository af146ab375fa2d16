from __future__ import annotations

import csv
import errno
import gzip
import hashlib
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medpretrain3d.commands import phantom as command
from medpretrain3d.errors import UserError
from medpretrain3d.phantom import make_case, planned_diameters_mm, statistics, write_phantom
from medpretrain3d.phantom.case import case_rng
from medpretrain3d.phantom.files import ORIENTATIONS, reordered, reordered_grid
from medpretrain3d.phantom.split import split_cases

COARSE_MM = 5.0
NUM_CASES = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "out"
    write_phantom(out, NUM_CASES, seed=1, spacing_mm=COARSE_MM)
    return out


@pytest.fixture(scope="module")
def cases() -> list:
    """Three cases with nodules at a resolution near the default."""
    chosen = [index for index in range(40) if len(planned_diameters_mm(0, index)) >= 2][:3]
    return [make_case(0, index, spacing_mm=2.5) for index in chosen]


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# ---- what is written


def test_same_seed_gives_the_same_bytes_however_many_workers_write_them(folder, tmp_path):
    write_phantom(tmp_path / "again", NUM_CASES, seed=1, spacing_mm=COARSE_MM, workers=2)
    assert digests(tmp_path / "again") == digests(folder)


def test_another_seed_gives_other_images(folder, tmp_path):
    write_phantom(tmp_path / "other", 1, seed=2, spacing_mm=COARSE_MM)
    image = "imagesTr/phantom_0000_0000.nii.gz"
    assert digests(tmp_path / "other")[image] not in digests(folder).values()


def test_layout_is_that_of_nnunet_with_instances(folder):
    document = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    (split,) = json.loads((folder / "splits.json").read_text(encoding="utf-8"))
    assert (len(split["train"]), len(split["val"]), document["numTraining"]) == (3, 1, 4)
    assert document["instances"] is True
    assert document["labels"] == {"background": 0, "nodule": 1}
    images = {path.name.removesuffix("_0000.nii.gz") for path in (folder / "imagesTr").iterdir()}
    assert images == {*split["train"], *split["val"]}
    assert len(list((folder / "imagesTs").iterdir())) == 1
    for labels in [*folder.glob("labelsTr/*.nii.gz"), *folder.glob("labelsTs/*.nii.gz")]:
        table = json.loads(labels.with_name(labels.name.replace(".nii.gz", ".json")).read_text(encoding="utf-8"))
        present = set(np.unique(np.asanyarray(nibabel.load(labels).dataobj)).tolist()) - {0}
        assert table["instances"] == {str(instance): 0 for instance in sorted(present)}


def test_case_table_says_which_cases_have_a_nodule(folder):
    with_nodule = {row["case"] for row in csv.DictReader((folder / "boxes.csv").open())}
    cases = {row["case"]: row["label"] for row in csv.DictReader((folder / "cases.csv").open())}
    assert len(cases) == len(list(folder.glob("labelsT[rs]/*.nii.gz")))
    assert {case for case, label in cases.items() if label == "nodule"} == with_nodule
    assert set(cases.values()) == {"nodule", "no nodule"}


def test_box_table_is_the_hull_of_the_instance_masks(folder):
    rows = list(csv.DictReader((folder / "boxes.csv").open()))
    num_masks = 0
    for labels in [*folder.glob("labelsTr/*.nii.gz"), *folder.glob("labelsTs/*.nii.gz")]:
        image = nibabel.load(labels)
        instances = np.asanyarray(image.dataobj)
        of_case = [row for row in rows if row["case"] == labels.name.removesuffix(".nii.gz")]
        num_masks += instances.max()
        assert len(of_case) == instances.max()
        for instance, row in enumerate(of_case, start=1):
            voxels = np.argwhere(instances == instance)
            low, high = voxels.min(axis=0), voxels.max(axis=0) + 1
            assert [int(row[key]) for key in ("i0", "j0", "k0", "i1", "j1", "k1")] == [*low, *high]
            # nibabel speaks RAS mm of voxel centres; LPS turns x and y round, so corners must be sorted again.
            ends = nibabel.affines.apply_affine(image.affine, np.array([low - 0.5, high - 0.5])) * (-1, -1, 1)
            expected = [*ends.min(axis=0), *ends.max(axis=0)]
            assert [float(row[key]) for key in ("x0", "y0", "z0", "x1", "y1", "z1")] == pytest.approx(
                expected, abs=1e-3
            )
            assert 4.0 <= float(row["diameter_mm"]) <= 40.0
    assert num_masks == len(rows) > 0


def test_image_and_mask_share_an_affine_and_gzip_headers_hold_no_time_and_no_name(folder):
    for path in folder.glob("imagesTr/*.nii.gz"):
        image = nibabel.load(path)
        labels = nibabel.load(folder / "labelsTr" / path.name.replace("_0000.nii", ".nii"))
        assert image.get_data_dtype() == np.int16
        assert np.array_equal(image.affine, labels.affine)
        assert image.shape == labels.shape
        assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-4)
        assert path.read_bytes()[3:8] == bytes(5)  # no flags (so no name), mtime 0
        assert gzip.decompress(path.read_bytes())


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_file_order_moves_no_voxel_in_the_patient(orientation):
    case = make_case(0, 0, spacing_mm=8.0)
    grid = reordered_grid(case.grid, orientation)
    array = reordered(case.image, orientation)
    assert "".join(nibabel.aff2axcodes(np.diag([-1, -1, 1, 1]) @ grid.affine_lps)) == orientation
    for index in [(0, 0, 0), (3, 5, 7), tuple(size - 1 for size in array.shape)]:
        place = np.linalg.inv(case.grid.affine_lps) @ grid.affine_lps @ [*index, 1]
        assert array[index] == case.image[tuple(np.rint(place[:3]).astype(int))]


# ---- starting again


def test_second_call_keeps_what_is_there_and_completes_what_is_missing(folder, tmp_path):
    before = digests(folder)
    again = write_phantom(folder, NUM_CASES, seed=1, spacing_mm=COARSE_MM)
    assert (again.num_written, again.num_reused) == (0, NUM_CASES)
    removed = next(folder.glob("labelsTr/*.json"))
    removed.unlink()
    untouched = next(folder.glob("imagesTs/*")).stat().st_mtime_ns
    again = write_phantom(folder, NUM_CASES, seed=1, spacing_mm=COARSE_MM)
    assert (again.num_written, again.num_reused) == (1, NUM_CASES - 1)
    assert digests(folder) == before
    assert next(folder.glob("imagesTs/*")).stat().st_mtime_ns == untouched


def test_lungs_are_added_to_what_is_there_and_hold_its_nodules(folder, tmp_path):
    folder = shutil.copytree(folder, tmp_path / "copy")
    before = digests(folder)
    again = write_phantom(folder, NUM_CASES, seed=1, spacing_mm=COARSE_MM, organs=True)
    assert again.num_written == NUM_CASES
    assert {name: digest for name, digest in digests(folder).items() if "organs" not in str(name)} == before
    nodules = sorted(folder.glob("labels*/*.nii.gz"))
    assert len(nodules) == NUM_CASES
    for path in nodules:
        lung = nibabel.load(folder / "organs" / path.name.removesuffix(".nii.gz") / "lung.nii.gz")
        image = nibabel.load(path)
        np.testing.assert_array_equal(lung.affine, image.affine)
        is_lung, is_nodule = np.asarray(lung.dataobj) > 0, np.asarray(image.dataobj) > 0
        assert 0.1 < is_lung.mean() < 0.6
        assert is_lung[is_nodule].all()
    assert write_phantom(folder, NUM_CASES, seed=1, spacing_mm=COARSE_MM, organs=True).num_written == 0


def test_command_says_what_was_reused(folder, capsys):
    import argparse

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args([str(folder), "--cases", "5", "--seed", "1", "--spacing-mm", str(COARSE_MM)])
    assert command.run(args) == 0
    assert "5 of 5 cases were there already" in capsys.readouterr().out


def test_other_parameters_in_the_same_folder_are_an_error(folder):
    with pytest.raises(UserError, match="made with seed 1, wanted seed 9; choose another folder"):
        write_phantom(folder, NUM_CASES, seed=9, spacing_mm=COARSE_MM)


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        write_phantom(tmp_path, 1)
    with pytest.raises(UserError, match="is a file"):
        write_phantom(tmp_path / "thesis.txt", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"num_cases": 0}, "number of cases: got 0, wanted 1 or more"),
        ({"num_cases": 1, "seed": -1}, "seed: got -1"),
        ({"num_cases": 1, "spacing_mm": 0.1}, "spacing: got 0.1 mm, wanted 1 to 10 mm"),
        ({"num_cases": 1, "workers": 0}, "workers: got 0"),
    ],
)
def test_parameters_out_of_range_are_errors(tmp_path, parameters, message):
    with pytest.raises(UserError, match=message):
        write_phantom(tmp_path / "out", **parameters)
    assert not (tmp_path / "out").exists()


def test_full_disk_is_an_error_that_leaves_no_unfinished_file(tmp_path, monkeypatch):
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gzip.GzipFile, "write", full)
    with pytest.raises(UserError, match="disk is full"):
        write_phantom(tmp_path / "out", 1, spacing_mm=8.0)
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["phantom.json"]
    monkeypatch.undo()
    assert write_phantom(tmp_path / "out", 1, spacing_mm=8.0).num_written == 1


# ---- statistics


def test_counts_and_diameters_follow_lidc():
    rng = np.random.default_rng(0)
    counts = statistics.draw_num_nodules(rng, 20_000)
    assert [(counts == n).mean() for n in range(3)] == pytest.approx([0.31, 0.36, 0.18], abs=0.015)
    assert counts.mean() == pytest.approx(1391 / 1018, abs=0.04)
    diameters = statistics.draw_diameters_mm(rng, 20_000)
    assert np.percentile(diameters, [5, 50, 95]) == pytest.approx([5.6, 9.2, 28.6], rel=0.05)
    assert diameters.min() > 4
    assert diameters.max() <= 40


def test_planned_diameters_are_those_of_the_distributions():
    planned = [planned_diameters_mm(3, index) for index in range(1500)]
    assert np.mean([len(diameters) == 0 for diameters in planned]) == pytest.approx(0.31, abs=0.04)
    assert np.median(np.concatenate(planned)) == pytest.approx(9.2, rel=0.07)


def test_wished_places_follow_lidc():
    rng = np.random.default_rng(0)
    places = np.concatenate([statistics.draw_places(rng, 20) for _ in range(3000)])
    expected = np.array([[0.26, 0.54, 0.84], [0.31, 0.57, 0.76], [0.17, 0.41, 0.84]])  # 5/50/95 % along D, H, W
    # The mixture's median along W lies in the gap between the lungs, where few nodules pin it down.
    assert pytest.approx(expected, abs=0.05) == np.percentile(places, [5, 50, 95], axis=0).T


@pytest.mark.parametrize("num_cases", [20, 57])
def test_every_split_has_its_share_of_cases_with_nodules(num_cases):
    has_nodules = np.arange(num_cases) % 4 == 0
    splits = split_cases(has_nodules.tolist(), np.random.default_rng(0))
    assert sorted(case for indices in splits.values() for case in indices) == list(range(num_cases))
    assert [len(splits[name]) for name in ("val", "test")] == [round(0.2 * num_cases)] * 2
    for indices in splits.values():
        assert has_nodules[indices].sum() == pytest.approx(has_nodules.sum() * len(indices) / num_cases, abs=1)


def test_one_case_is_for_training():
    assert split_cases([True], np.random.default_rng(0)) == {"val": [], "test": [], "train": [0]}


def test_streams_are_independent():
    draws = {case_rng(0, index, stream).random() for index in range(3) for stream in ("body", "noise", "places")}
    assert len(draws) == 9


# ---- anatomy


def test_tissues_have_plausible_densities(cases):
    for case in cases:
        free = case.image[case.lung & (case.instances == 0)]
        assert -900 < np.median(free) < -780
        assert 1.5e6 < case.lung.sum() * np.prod(case.grid.spacing_mm) < 6.5e6  # mm^3: 1.5 to 6.5 litres
        assert np.median(case.image[:, 0, 0]) == pytest.approx(-1000, abs=15)  # air beside the body
        body = case.image[(case.image > -300) & ~case.lung]
        assert 0.05 < (body < -50).mean() < 0.7  # fat
        assert (abs(body - 50) < 60).mean() > 0.2  # muscle and organs
        assert 0.01 < (body > 180).mean() < 0.2  # bone, and blood after contrast agent
        assert case.image.max() > 400


def test_nodules_lie_in_the_lung_and_apart(cases):
    for case in cases:
        assert case.lung[case.instances > 0].all()
        assert sorted(set(np.unique(case.instances)) - {0}) == list(range(1, len(case.diameters_mm) + 1))
        low_high = [np.argwhere(case.instances == i + 1) for i in range(len(case.diameters_mm))]
        boxes = [(voxels.min(axis=0), voxels.max(axis=0) + 1) for voxels in low_high]
        for i, (low, high) in enumerate(boxes):
            for other_low, other_high in boxes[:i]:
                assert ((np.minimum(high, other_high) - np.maximum(low, other_low)) <= 0).any()


def test_a_nodules_mask_is_as_wide_as_its_diameter(cases):
    for case in cases:
        for instance, diameter_mm in enumerate(case.diameters_mm, start=1):
            places = np.argwhere(case.instances == instance)[:, 1:] * case.grid.spacing_mm[1]
            pairs = np.sqrt(((places[:, None] - places[None]) ** 2).sum(axis=-1))
            # Widest axial extent; the projection of all slices can exceed any one slice, voxel centres fall short.
            assert diameter_mm - 2.5 * case.grid.spacing_mm[1] < pairs.max() < 1.6 * diameter_mm


def test_brightness_alone_finds_no_nodule(cases):
    for case in cases:
        inside = case.image[case.instances > 0]
        low, high = np.percentile(inside, [10, 90])
        alike = (case.image >= low) & (case.image <= high) & case.lung & (case.instances == 0)
        assert alike.sum() > 2 * len(inside)


def test_body_is_the_right_way_round(cases):
    for case in cases:
        d, h, w = case.image.shape
        assert case.image[int(0.2 * d) :, h // 2 :, w // 3 : 2 * w // 3].max() > 350  # spine: posterior, in the middle
        lung_right, lung_left = case.lung[..., : w // 2].sum(), case.lung[..., w // 2 :].sum()
        assert lung_right > lung_left  # the heart lies left, and W grows to the Left
        assert case.lung[: d // 4].sum() < case.lung[d // 4 : d // 2].sum()  # D grows from the belly to the neck
