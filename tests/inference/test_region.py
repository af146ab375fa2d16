"""Where one looks: how far a point is from masks and boxes, which tiles are read, what is left out and counted."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medpretrain3d.api.detector import Detector
from medpretrain3d.cli import main
from medpretrain3d.errors import UserError
from medpretrain3d.inference import Predictor, Regions, load_members
from medpretrain3d.inference.region import BoxRegion, MaskRegion, Near
from medpretrain3d.inference.tiles import starts_within, tile_starts
from medpretrain3d.store import Grid, Volume
from tests.rescoring.results import DARK, GRID, IDS, SHAPE, write_result, write_store


def test_distances_from_a_mask_are_those_from_the_faces_of_its_voxels() -> None:
    mask = np.zeros((10, 10, 10), bool)
    mask[4, 4, 4] = True
    region = MaskRegion(mask, Grid((10, 10, 10), np.diag([2.0, 1, 1, 1])))  # the voxel is 7 to 9, 3.5 to 4.5 twice
    points = np.array([[8.0, 4, 4], [9.0, 4, 4], [12.0, 4, 4], [8.0, 7.5, 8.5], [20.0, 4, 4], [4.0, 4, 4]])
    assert region.distances_mm(points, up_to_mm=5.0).tolist() == [0, 0, 3, 5, np.inf, 3]
    assert region.distances_mm(points, up_to_mm=2.0).tolist() == [0, 0, np.inf, np.inf, np.inf, np.inf]


@pytest.mark.parametrize("origin_mm", [0.0, 0.1])  # 0.1 has no exact number
@pytest.mark.parametrize("margin_mm", [0.0, 6.0])
def test_every_face_of_a_mask_belongs_to_it_whichever_way_the_file_is_stored(
    margin_mm: float, origin_mm: float
) -> None:
    mask = np.zeros((8, 8, 8), bool)
    mask[3:5, 3:5, 3:5] = True
    affine, turned = np.diag([2.0, 2, 2, 1]), np.diag([-2.0, -2, -2, 1])
    affine[:3, 3], turned[:3, 3] = origin_mm, origin_mm + 14
    low, high = origin_mm + 5 - margin_mm, origin_mm + 9 + margin_mm
    middle = origin_mm + 7
    points = np.array([np.where(np.arange(3) == axis, end, middle) for axis in range(3) for end in (low, high)])
    beyond = np.array([[low - 0.01, middle, middle], [middle, middle, high + 0.01]])
    box = np.array([[origin_mm + 5] * 3 + [origin_mm + 9] * 3])
    stored = (MaskRegion(mask, Grid(mask.shape, affine)), MaskRegion(mask[::-1, ::-1, ::-1], Grid(mask.shape, turned)))
    for region in (*stored, BoxRegion(box)):
        assert region.distances_mm(points, margin_mm).tolist() == [margin_mm] * 6
        assert region.distances_mm(beyond, margin_mm).tolist() == [np.inf] * 2


def test_distances_from_boxes() -> None:
    region = BoxRegion(np.array([[0.0, 0, 0, 4, 4, 4], [10, 0, 0, 12, 4, 4]]))
    points = np.array([[2.0, 2, 2], [6.0, 2, 2], [9.0, 2, 2], [-3.0, -4, 2], [2.0, 2, 50]])
    assert region.distances_mm(points, up_to_mm=10.0).tolist() == [0, 2, 1, 5, np.inf]


def test_a_mask_of_other_axes_says_the_same_and_the_crop_has_its_margin() -> None:
    mask = np.zeros((8, 10, 12), bool)
    mask[2:4, 5:6, 7:10] = True
    grid = Grid((8, 10, 12), np.array([[0, 0, 1.0, 5], [0, 2.0, 0, 6], [4.0, 0, 0, 7], [0, 0, 0, 1]]))
    affine = grid.affine_lps @ np.diag([1, 1, -1, 1])  # the last axis from its end
    affine[:3, 3] += 11 * grid.affine_lps[:3, 2]
    turned = MaskRegion(mask[:, :, ::-1], Grid((8, 10, 12), affine))
    for region in (MaskRegion(mask, grid), turned):
        assert Near(region, 0.0).crop_vox(grid) == ((2, 5, 7), (4, 6, 10))
        # 3 mm are 0.75, 1.5 and 3 voxels; the last axis ends at 12
        assert Near(region, 3.0).crop_vox(grid) == ((1, 3, 4), (5, 8, 12))
        assert Near(region, 100.0).crop_vox(grid) == ((0, 0, 0), (8, 10, 12))
    away = grid.affine_lps.copy()
    away[0, 3] = 500
    with pytest.raises(UserError, match="the region to look at lies outside of the scan"):
        Near(turned, 3.0).crop_vox(Grid((8, 10, 12), away))


def test_tiles_cover_the_part_that_is_looked_at_and_no_more() -> None:
    shape, patch = (40, 40, 40), (16, 16, 16)
    assert starts_within(shape, patch, 0.5) == tile_starts(shape, patch, 0.5)
    assert starts_within(shape, patch, 0.5, ((0, 0, 0), shape)) == tile_starts(shape, patch, 0.5)
    # Less than a tile: one about its middle, within the volume.
    assert starts_within(shape, patch, 0.5, ((18, 0, 36), (22, 4, 40))) == [(12, 0, 24)]
    assert starts_within((8, 40, 40), patch, 0.5, ((2, 10, 10), (4, 34, 26))) == [(0, 10, 10), (0, 18, 10)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result of a cross-validation, and masks of the organ in which the bright cubes lie, two voxels about them."""
    folder = tmp_path_factory.mktemp("region")
    write_store(folder / "store")
    write_result(folder / "cv")
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:10, 2:11, 2:11] = 1
    for name in IDS:
        (folder / "masks" / name).mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(mask, ras(GRID)), folder / "masks" / name / "liver.nii.gz")
        nibabel.save(nibabel.Nifti1Image(1 - mask, ras(GRID)), folder / "masks" / name / "lung.nii.gz")
    assert main(["targets", str(folder / "store"), "--split", "all", "-o", str(folder / "targets.json")]) == 0
    return folder


def ras(grid: Grid) -> np.ndarray:
    return np.asarray(np.diag([-1.0, -1, 1, 1]) @ grid.affine_lps)


def words(printed: str) -> list[str]:
    """Lines with one space between their cells."""
    return [" ".join(line.split()) for line in printed.splitlines()]


def restrict(place: Path, *options: str) -> int:
    files = ["--predictions", str(place / "cv" / "predictions.json"), "--targets", str(place / "targets.json")]
    return main(["restrict", *files, "--region", str(place / "masks"), *options])


def test_what_a_region_drops_is_counted_against_the_truth(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert restrict(place, "--region-parts", "liver", "--margin-mm", "0", "50") == 0
    lines = words(capsys.readouterr().out)
    assert lines[0] == "margin class objects outside hits lost false positives gone"
    assert lines[1] == "0 mm lesion 0 of 6 0 of 6 6 of 6"
    assert lines[2] == "50 mm lesion 0 of 6 0 of 6 0 of 6"
    assert restrict(place, "--region-parts", "lung", "--margin-mm", "0", "-o", str(tmp_path / "kept.json")) == 0
    printed = capsys.readouterr().out
    assert words(printed)[1] == "0 mm lesion 6 of 6 6 of 6 0 of 6"
    assert "6 of 12 boxes: " in printed
    kept = json.loads((tmp_path / "kept.json").read_text())
    before = json.loads((place / "cv" / "predictions.json").read_text())
    assert [one["boxes_vox"] for one in kept["predictions"]] == [[list(DARK)]] * len(IDS)
    assert kept["detectors"] == before["detectors"]  # still out of fold


def test_what_stays_has_no_call_of_the_scan_and_counts_what_went(place: Path, tmp_path: Path) -> None:
    document = json.loads((place / "cv" / "predictions.json").read_text())
    document["predictions"][0] |= {"case_score": 0.6, "is_positive": True}
    document["predictions"][1] |= {"num_outside": 4}
    (tmp_path / "predictions.json").write_text(json.dumps(document))
    files = ["--predictions", str(tmp_path / "predictions.json"), "--region-parts", "liver", "--margin-mm", "0"]
    assert restrict(place, *files, "-o", str(tmp_path / "kept.json")) == 0
    kept = json.loads((tmp_path / "kept.json").read_text())["predictions"]
    assert [one["num_outside"] for one in kept] == [1, 5, 1, 1, 1, 1]
    assert not any("case_score" in one or "is_positive" in one for one in kept)


@pytest.mark.parametrize("name_of", [str, int, None])
def test_what_stays_is_written_of_files_that_name_scans_by_numbers_or_not_at_all(
    place: Path, tmp_path: Path, name_of: type | None
) -> None:
    found, wanted = (json.loads((place / one).read_text()) for one in ("cv/predictions.json", "targets.json"))
    for number, entries in enumerate(zip(found["predictions"], wanted["targets"], strict=True)):
        (tmp_path / "masks").mkdir(exist_ok=True)
        shutil.copytree(place / "masks" / IDS[number], tmp_path / "masks" / str(number))
        entries[0]["case"], entries[1]["case"] = name_of and name_of(number), str(number)
        if name_of is None:
            del entries[0]["case"]
    if name_of is not None:
        found["predictions"].reverse()  # paired by name
    found["predictions"][0] |= {name: [] for name in ("boxes", "scores", "labels", "boxes_vox")}
    for name, document in (("predictions", found), ("targets", wanted)):
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    files = [word for one in ("predictions", "targets") for word in (f"--{one}", str(tmp_path / f"{one}.json"))]
    files += ["--region", str(tmp_path / "masks"), "--region-parts", "lung", "--margin-mm", "0"]
    assert main(["restrict", *files, "-o", str(tmp_path / "kept.json")]) == 0
    kept = json.loads((tmp_path / "kept.json").read_text())["predictions"]
    assert [one["boxes_vox"] for one in kept] == [[], *[[list(DARK)]] * (len(IDS) - 1)]
    assert [one.get("case") for one in kept] == [one.get("case") for one in found["predictions"]]


def test_no_more_hits_are_lost_than_there_were_where_a_scan_has_many_boxes(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((place / "cv" / "predictions.json").read_text())
    entry = document["predictions"][0]  # the dark box, which hits nothing, a hundred times before the bright one
    for name in ("boxes", "scores", "labels", "boxes_vox"):
        entry[name] = [entry[name][0]] * 100 + [entry[name][1]]
    (tmp_path / "many.json").write_text(json.dumps(document))
    files = ["--predictions", str(tmp_path / "many.json"), "--region-parts", "liver", "--margin-mm", "0"]
    assert restrict(place, *files) == 0
    assert words(capsys.readouterr().out)[1] == "0 mm lesion 0 of 6 0 of 6 105 of 105"


def test_masks_beside_the_file_would_number_other_boxes(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "masks").mkdir()
    options = ["--region-parts", "liver", "--margin-mm", "0", "-o"]
    assert restrict(place, *options, str(tmp_path / "predictions.json")) == 2
    assert "masks beside it numbers all boxes, not what stays; choose another folder" in capsys.readouterr().err
    assert restrict(place, *options, str(tmp_path / "kept.json")) == 0


def test_boxes_of_a_coarse_detector_are_a_region_too(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((place / "cv" / "predictions.json").read_text())
    for entry in document["predictions"]:  # it found the bright cubes alone
        for name in ("boxes", "scores", "labels", "boxes_vox"):
            del entry[name][0]
    (tmp_path / "coarse.json").write_text(json.dumps(document))
    assert restrict(place, "--region", str(tmp_path / "coarse.json"), "--margin-mm", "5") == 0
    assert words(capsys.readouterr().out)[1] == "5 mm lesion 0 of 6 0 of 6 6 of 6"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--region-parts", "spleen"], "no mask spleen in .*c0, which has liver, lung; name some of these"),
        (["-o", "kept.json"], r"got margins \[0.0, 5.0, 10.0, 20.0\], wanted one"),
        (["--region", "gone"], "gone: no such file or folder; give predictions.json of"),
        (["--region", "empty"], "case c0: no masks in "),
    ],
)
def test_what_is_no_region_is_refused(
    place: Path,
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert restrict(place, *options) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_label_map_has_numbers_and_an_empty_mask_is_no_region(place: Path, tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[2, 3, 4] = 5
    nibabel.save(nibabel.Nifti1Image(labels, ras(GRID)), tmp_path / "c0.nii.gz")
    assert Regions(tmp_path, ("5", "7"), 0.0).near("c0").crop_vox(GRID) == ((2, 3, 4), (3, 4, 5))
    with pytest.raises(UserError, match=r"c0.nii.gz: is a label map, whose parts are numbers; got 'liver'"):
        Regions(tmp_path, ("liver",)).of("c0")
    with pytest.raises(UserError, match=r"case c0: its mask \(7\) in .* is empty, so there is nowhere to look"):
        Regions(tmp_path, ("7",)).of("c0")


def test_a_detector_looks_within_the_region_and_keeps_what_is_near(place: Path) -> None:
    random = np.random.default_rng(0)
    large = Grid((48, 48, 48), GRID.affine_lps)
    scan = Volume(random.integers(-100, 100, (1, 48, 48, 48), dtype=np.int16), large, large)
    mask = np.zeros((48, 48, 48), bool)
    mask[2:12, 2:12, 2:12] = True
    near = Near(MaskRegion(mask, large), 4.0)
    predictor = Predictor(load_members(place / "cv" / "ensemble"), "cpu")
    looked: list[tuple[int, int]] = []
    whole = predictor.predict(scan, "scan", progress=lambda done, total: looked.append((done, total)))
    part = predictor.predict(
        predictor.start(scan, "scan", near), "scan", progress=lambda done, total: looked.append((done, total))
    )
    assert looked[-1][1] == 2  # one tile of each member, which see 24 voxels
    assert looked[0][1] == 2 * 27
    assert part.num_outside is not None
    assert part.num_outside > 0
    assert whole.num_outside is None
    assert len(part) > 0
    assert near.holds(part.boxes_lps_mm).all()
    everywhere = predictor.predict(predictor.start(scan, "scan", Near(MaskRegion(~mask | mask, large), 0.0)), "scan")
    assert everywhere.num_outside == 0
    assert everywhere.boxes_vox.tolist() == whole.boxes_vox.tolist()


def test_predict_says_what_it_left_out_and_another_mask_makes_it_look_again(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = np.random.default_rng(0).integers(-100, 100, SHAPE, dtype=np.int16)
    nibabel.save(nibabel.Nifti1Image(image, ras(GRID)), tmp_path / "c0.nii.gz")
    command = ["predict", str(place / "cv" / "ensemble"), str(tmp_path / "c0.nii.gz"), "-o", str(tmp_path / "out")]
    region = ["--region", str(place / "masks"), "--region-parts", "liver", "--region-margin-mm", "0"]
    assert main([*command, *region]) == 0
    entry = json.loads((tmp_path / "out" / "predictions.json").read_text())["predictions"][0]
    assert entry["num_outside"] > 0
    said = f"{entry['num_outside']} more, 0 mm and further from {place / 'masks'}, were left out"
    assert said in capsys.readouterr().out
    assert main([*command, *region]) == 0
    again = capsys.readouterr().out
    assert said in again
    assert "1 of 1 scans taken from" in again
    assert main([*command, *region[:-1], "10"]) == 0
    assert "taken from" not in capsys.readouterr().out
    found = Detector.from_pretrained(place / "cv" / "ensemble", device="cpu").predict(
        tmp_path / "c0.nii.gz", regions=Regions(place / "masks", ("liver",), 0.0)
    )
    assert found.num_outside == entry["num_outside"]
    assert found.boxes_lps_mm.tolist() == entry["boxes"]


def test_of_a_scan_its_own_region_alone_decides_whether_it_is_looked_at_again(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans, masks, coarse = tmp_path / "scans", tmp_path / "masks", tmp_path / "coarse.json"
    scans.mkdir()
    shutil.copytree(place / "masks", masks)
    shutil.copy(place / "cv" / "predictions.json", coarse)
    for number, name in enumerate(IDS[:3]):
        image = np.random.default_rng(number).integers(-100, 100, SHAPE, dtype=np.int16)
        nibabel.save(nibabel.Nifti1Image(image, ras(GRID)), scans / f"{name}.nii.gz")

    def num_taken(region: Path, *names: str) -> int:
        files = [str(scans / f"{name}.nii.gz") for name in names]
        options = ["-o", str(tmp_path / region.stem), "--region", str(region)]
        assert main(["predict", str(place / "cv" / "ensemble"), *files, *options]) == 0
        found = re.search(r"(\d) of \d scans taken from", capsys.readouterr().out)
        return 0 if found is None else int(found[1])

    first, second, third = IDS[:3]
    for region in (masks, coarse):
        assert num_taken(region, first, second) == 0
        assert num_taken(region, first, second, third) == 2
        assert num_taken(region, second, first) == 2
    shutil.copy(masks / first / "lung.nii.gz", masks / first / "liver.nii.gz")
    assert num_taken(masks, first, second, third) == 2
    document = json.loads(coarse.read_text())
    document["predictions"][0]["boxes"][0][0] -= 1
    coarse.write_text(json.dumps(document))
    assert num_taken(coarse, first, second, third) == 2
    shutil.rmtree(masks / second)
    files = [str(scans / f"{name}.nii.gz") for name in (first, second)]
    assert main(["predict", str(place / "cv" / "ensemble"), *files, "-o", str(masks), "--region", str(masks)]) == 2
    assert f"case {second}: no masks in " in capsys.readouterr().err


def test_a_data_set_is_tested_within_the_region(place: Path, tmp_path: Path) -> None:
    command = ["test", str(place / "cv" / "ensemble"), str(place / "store"), "-o", str(tmp_path / "out")]
    assert main([*command, "--region", str(place / "masks"), "--region-parts", "liver", "--region-margin-mm", "0"]) == 0
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())["predictions"]
    assert len(entries) == len(IDS)
    regions = Regions(place / "masks", ("liver",), 0.0)
    assert all(regions.near(one["case"]).holds(np.reshape(one["boxes"], (-1, 6))).all() for one in entries)
    assert sum(one["num_outside"] for one in entries) > 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["num_cases"] == len(IDS)
