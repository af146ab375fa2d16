"""Boxes of oblique scans meet in the scan's own axes, through files and the real commands."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from finetune.scoring import CaseResult
from medpretrain3d.boxes import Detections
from medpretrain3d.cli import main
from medpretrain3d.evaluation import PredictedCase, TargetCase, evaluate, mean_average_precision
from medpretrain3d.evaluation.overlap import of_boxes
from medpretrain3d.inference.writers import Prediction, write_predictions
from medpretrain3d.store.case import CaseData, Instance, write_case
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.store import Store, write_index

SHAPE = (64, 48, 40)
SPACING_MM = (0.5, 1.0, 2.0)
# Of 12 x 2 x 4 mm, side by side along j with a gap of 1 mm between them.
ROD = [10.0, 10, 10, 34, 12, 12]
BESIDE = [10.0, 13, 10, 34, 15, 12]
AP10, AP50 = "AP_IoU_0.10_MaxDet_100", "AP_IoU_0.50_MaxDet_100"


def turned(degrees: float, axis: int = 2, shape=SHAPE, spacing_mm=SPACING_MM, origin=(-20.0, 30, 5)) -> Grid:
    """A grid that is turned about an axis of LPS."""
    a, b = (other for other in range(3) if other != axis)
    rotation = np.eye(3)
    rotation[a, a] = rotation[b, b] = math.cos(math.radians(degrees))
    rotation[a, b], rotation[b, a] = -math.sin(math.radians(degrees)), math.sin(math.radians(degrees))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation * spacing_mm, origin
    return Grid(shape, affine)


def twice_turned() -> Grid:
    """A grid without any axis along one of LPS."""
    one, other = turned(20, 0, spacing_mm=(1, 1, 1), origin=(0, 0, 0)), turned(30, 2)
    affine = other.affine_lps.copy()
    affine[:3, :3] = one.affine_lps[:3, :3] @ affine[:3, :3]
    return Grid(SHAPE, affine)


def entry(grid: Grid, boxes_vox, scores=None, *, knows="boxes_vox grid", case="x", **more):
    boxes_vox = np.array(boxes_vox, dtype=float).reshape(-1, 6)
    known = {"boxes_vox": boxes_vox.tolist(), "grid": grid.to_json()}
    return {
        "case": case,
        "boxes": np.round(grid.boxes_to_lps_mm(boxes_vox), 4).tolist(),
        "labels": [0] * len(boxes_vox),
        **({} if scores is None else {"scores": scores}),
        **{name: known[name] for name in knows.split()},
        **more,
    }


@pytest.fixture
def score(tmp_path, capsys):
    """Evaluate entries by the command line and return result, exit code and all that was said."""

    def run(found, wanted, *options, frame="lps_mm"):
        header = {"classes": ["rod"]} | ({"frame": frame} if frame else {})
        for name, entries in (("predictions", found), ("targets", wanted)):
            (tmp_path / f"{name}.json").write_text(json.dumps({**header, name: entries}))
        out = tmp_path / "out.json"
        out.unlink(missing_ok=True)
        files = ["--predictions", tmp_path / "predictions.json", "--targets", tmp_path / "targets.json", "-o", out]
        code = main(["evaluate", *map(str, [*files, "--bootstrap", 0, *options])])
        printed = capsys.readouterr()
        return (json.loads(out.read_text()) if out.exists() else None), code, printed.out + printed.err

    return run


OBLIQUE = [turned(45), turned(30, 1), turned(-10, 0), turned(44.9), twice_turned(), turned(2e-3)]


@pytest.mark.parametrize("grid", OBLIQUE)
def test_disjoint_rods_of_an_oblique_scan_do_not_meet(score, grid):
    result, code, said = score([entry(grid, [BESIDE], [0.9])], [entry(grid, [ROD])])
    assert (code, result[AP10], result["num_oblique_cases"], result["notes"]) == (0, 0.0, 1, [])
    assert "note:" not in said
    result, *_ = score([entry(grid, [ROD], [0.9])], [entry(grid, [ROD])])
    assert result["mAP_IoU_0.10_0.50_0.05_MaxDet_100"] == 1


@pytest.mark.parametrize("grid", OBLIQUE)
@pytest.mark.parametrize(("protocol", "key"), [("picai", "AP"), ("ribfrac", "froc_score")])
def test_protocols_of_lesions_meet_in_the_scan_too(score, grid, protocol, key):
    options = ("--protocol", protocol)
    assert score([entry(grid, [BESIDE], [0.9])], [entry(grid, [ROD])], *options)[0][key] == 0
    assert score([entry(grid, [ROD], [0.9])], [entry(grid, [ROD])], *options)[0][key] == 1


def test_sizes_are_those_along_the_scan(score):
    """A rod of 12 x 2 x 4 mm is in the stratum of 10 to 20 mm; its hull at 45 degrees measures 9.9 mm."""
    grid = turned(45)
    result, *_ = score([entry(grid, [ROD], [0.9])], [entry(grid, [ROD])])
    assert [one["num_targets"] for one in result["size_strata"]] == [0, 0, 1, 0, 0]


def test_a_centre_inside_the_hull_alone_is_not_inside_the_box(score):
    """8 mm along the rod's side and 3 mm off: inside the hull at 45 degrees, outside the rod."""
    grid, beside = turned(45), [24.0, 14, 10, 28, 16, 12]
    options = ("--protocol", "centre", "--hit", "box")
    assert score([entry(grid, [beside], [0.9])], [entry(grid, [ROD])], *options)[0]["AP"] == 0
    assert score([entry(grid, [ROD], [0.9])], [entry(grid, [ROD])], *options)[0]["AP"] == 1


def test_the_radius_is_half_the_longest_edge_along_the_scan(score):
    """Half of 12 mm along the rod: 5.5 mm away is a hit, 6.5 mm none; the hull's half is 4.95 mm."""
    grid, options = turned(45), ("--protocol", "centre")
    for away_vox, hit in ((5.5, 1), (6.5, 0)):
        moved = np.array(ROD) + [0, away_vox, 0] * 2
        assert score([entry(grid, [moved], [0.9])], [entry(grid, [ROD])], *options)[0]["AP"] == hit


@pytest.mark.parametrize("knows", ["boxes_vox grid", "boxes_vox", ""])
def test_a_region_is_ignored_along_the_scan(score, knows):
    """A false positive inside the region's hull and outside of the region stays a false positive."""
    grid, region = turned(30), np.array([BESIDE])
    ignore = {"ignore": grid.boxes_to_lps_mm(region).tolist()}
    if knows:
        ignore["ignore_vox"] = region.tolist()
    outside = [20.0, 16, 10, 24, 18, 12]
    inside_hull = grid.boxes_to_lps_mm(np.array([outside]))[0]
    center = (inside_hull[:3] + inside_hull[3:]) / 2
    assert (center > ignore["ignore"][0][:3]).all()
    assert (center < ignore["ignore"][0][3:]).all()
    wanted = [entry(grid, [ROD], knows=knows, **ignore)]
    result, *_ = score([entry(grid, [outside, ROD], [0.9, 0.8])], wanted)
    assert result[AP50] == pytest.approx(0.5)
    result, *_ = score([entry(grid, [BESIDE, ROD], [0.9, 0.8])], wanted)
    assert result[AP50] == 1


@pytest.mark.parametrize("grid", OBLIQUE)
def test_targets_written_before_take_the_frame_of_the_predictions(score, grid):
    """They had boxes in voxels and no grid."""
    old = [entry(grid, [ROD], knows="boxes_vox")]
    result, code, said = score([entry(grid, [BESIDE], [0.9])], old)
    assert (code, result[AP10]) == (0, 0)
    assert "note:" not in said
    assert score([entry(grid, [ROD], [0.9])], old)[0][AP50] == 1


@pytest.mark.parametrize("grid", [turned(30, 1), turned(-10, 0), turned(35), twice_turned()])
@pytest.mark.parametrize("side", ["predictions", "targets"])
def test_boxes_in_lps_alone_are_taken_for_hulls_and_that_is_said(score, grid, side):
    knows = {"predictions": "boxes_vox grid", "targets": "boxes_vox grid"} | {side: ""}
    wanted = [entry(grid, [ROD], knows=knows["targets"])]
    for box, found in ((ROD, 1), (BESIDE, 0)):
        result, code, said = score([entry(grid, [box], [0.9], knows=knows["predictions"])], wanted)
        assert (code, result[AP50], result["num_oblique_cases"]) == (0, found, 1)
        assert "note: 1 of 1 scans, first 'x': oblique, with boxes in LPS alone, which are taken for hulls" in said
        assert len(result["notes"]) == 1


def test_hulls_that_leave_the_box_open_are_scored_by_their_hulls_in_the_scan(score):
    """At 45 degrees 12 x 2 mm have a hull of 9.9 x 9.9 mm, and this one of 14 x 14: 24 of 196 mm2 overlap at most."""
    grid = turned(45)
    result, code, said = score([entry(grid, [ROD], [0.9], knows="")], [entry(grid, [ROD])])
    assert (code, result[AP10], result["AP_IoU_0.20_MaxDet_100"]) == (0, 1, 0)
    assert "leave open which boxes along the scan's axes they enclose" in said
    # A box that is no hull of any along the axes: its edge along x is shorter than that of the thinnest.
    needle = {"boxes": [[0.0, 30, 5, 0.1, 60, 20]], "boxes_vox": None, "grid": None}
    result, code, said = score([entry(turned(30), [ROD], [0.9]) | needle], [entry(turned(30), [ROD])])
    assert (code, result[AP50]) == (0, 0)
    assert "leave open which boxes" in said


@pytest.mark.parametrize("knows", ["", "boxes_vox", "boxes_vox grid"])
@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_scans_along_the_axes_are_scored_as_before_to_the_last_bit(score, knows, degrees, axis):
    grid = turned(degrees, axis)
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 20, (12, 3))
    true = np.concatenate([low, low + rng.uniform(3, 15, (12, 3))], axis=1)
    found = np.sort((true + rng.normal(0, 1.5, true.shape)).reshape(-1, 2, 3), axis=1).reshape(-1, 6)
    scores = rng.uniform(size=12).round(2).tolist()
    bare = score([entry(grid, found, scores, knows="")], [entry(grid, true, knows="")])[0]
    result, code, _ = score([entry(grid, found, scores, knows=knows)], [entry(grid, true, knows=knows)])
    assert code == 0
    assert 0 < result["mAP_IoU_0.10_0.50_0.05_MaxDet_100"] < 1
    np.testing.assert_equal(result, bare)  # nan equals nan


def test_a_grid_may_be_stored_in_another_order_of_axes(score):
    """DICOM and NIfTI of one scan: mirrored and permuted axes are the same frame."""
    grid = turned(30)
    other, order, mirrored = grid.canonical()
    assert order != (0, 1, 2) or mirrored
    moved = grid.map_boxes(np.array([ROD, BESIDE]), other)
    result, code, said = score([entry(other, moved[:1], [0.9])], [entry(grid, [ROD])])
    assert (code, result[AP50]) == (0, 1)
    assert "note:" not in said
    assert score([entry(other, moved[1:], [0.9])], [entry(grid, [ROD])])[0][AP10] == 0


def test_a_part_of_a_scan_is_compared_where_it_lies_and_that_is_said(score):
    for grid in (turned(30), turned(0)):
        part = grid.crop((4, 6, 8), (40, 30, 20))
        box = grid.map_boxes(np.array([ROD]), part)
        result, code, said = score([entry(part, box, [0.9])], [entry(grid, [ROD])])
        assert (code, result[AP50]) == (0, 1)
        assert "note: 1 of 1 scans, first 'x': predictions and targets name grids of one direction but of other" in said


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (turned(0), turned(30), "case 'x': the grid of the predictions is turned against that of the targets"),
        (turned(30), turned(-30), "turned against"),
        (turned(30), turned(30, origin=(400.0, 30, 5)), "no point of the patient in common"),
        (turned(0), turned(0, origin=(-20.0, 30, 500)), "no point of the patient in common"),
    ],
)
def test_another_scan_under_the_same_id_is_refused(score, ours, theirs, said):
    result, code, printed = score([entry(ours, [ROD], [0.9])], [entry(theirs, [ROD])])
    assert (result, code) == (None, 2)
    assert said in printed
    assert printed.count("\n") == 1


def test_boxes_that_are_not_the_same_in_voxels_and_in_lps_are_refused(score):
    grid, good = turned(30), [entry(turned(30), [ROD])]
    edited = entry(grid, [ROD], [0.9]) | {"boxes_vox": [BESIDE]}
    assert "predictions of case 'x': box 0 in voxels lies" in score([edited], good)[2]
    # Targets written before, of another scan under the same id.
    other = [entry(turned(30, origin=(-17.0, 30, 5)), [ROD], knows="boxes_vox")]
    result, code, said = score([entry(grid, [ROD], [0.9])], other)
    assert (result, code) == (None, 2)
    assert "targets of case 'x': box 0 in voxels lies 3 mm from the one in LPS mm" in said


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"grid": {"shape": [1, 2], "affine_lps": np.eye(4).tolist()}}, "grid of case 'x'"),
        ({"grid": {"shape": [1, 2, 3], "affine_lps": np.zeros((4, 4)).tolist()}}, "invertible"),
        ({"grid": 3}, "grid of case 'x'"),
        ({"boxes_vox": [ROD, ROD]}, "1 boxes but 2 in voxels"),
        ({"boxes_vox": [[2, 0, 0, 1, 2, 2]]}, "in voxels: box 0"),
    ],
)
def test_a_frame_that_makes_no_sense_is_refused(score, broken, said):
    for found, wanted in ((broken, {}), ({}, broken)):
        grid = turned(30)
        result, code, printed = score([entry(grid, [ROD], [0.9]) | found], [entry(grid, [ROD]) | wanted])
        assert (result, code) == (None, 2)
        assert said in printed
        assert printed.count("\n") == 1


def test_voxel_boxes_are_in_the_scans_frame_already(score):
    """A file in voxels states no LPS boxes, and its grid is not asked."""
    grid = turned(45)
    found, wanted = (entry(grid, [box], scores) | {"boxes": [box]} for box, scores in ((ROD, [0.9]), (ROD, None)))
    assert score([found], [wanted], frame="voxels")[0][AP50] == 1
    assert score([found], [wanted], "--boxes", "inclusive", frame="")[0][AP50] == 1


def test_a_file_that_states_no_frame_is_in_lps_where_it_gives_a_grid(score, tmp_path):
    grid = turned(45)
    assert score([entry(grid, [BESIDE], [0.9])], [entry(grid, [ROD])], frame="")[0][AP10] == 0
    files = {}
    for name, one, frame in (("predictions", entry(grid, [ROD], [0.9]), {}), ("targets", entry(grid, [ROD]), {})):
        frame = {"frame": "voxels"} if name == "targets" else frame
        files[name] = tmp_path / f"{name}.json"
        files[name].write_text(json.dumps({"classes": ["rod"], **frame, name: [one]}))
    arguments = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    assert main(["evaluate", *arguments]) == 2


def test_compare_scores_both_in_the_frame_that_one_of_them_knows(tmp_path, capsys):
    grid = turned(35)
    files = {
        "a.json": {"predictions": [entry(grid, [BESIDE], [0.9], knows="")]},
        "b.json": {"predictions": [entry(grid, [ROD], [0.9])]},
        "targets.json": {"targets": [entry(grid, [ROD], knows="")]},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps({"classes": ["rod"], "frame": "lps_mm", **content}))
    a, b, targets, out = (str(tmp_path / name) for name in (*files, "out.json"))
    assert main(["compare", a, b, "--targets", targets, "-o", out, "--bootstrap", "5"]) == 0
    row = json.loads((tmp_path / "out.json").read_text())["differences"][AP10]
    assert (row["a"], row["b"]) == (0, 1)
    said = capsys.readouterr().out
    assert "note: A: 1 of 1 scans" in said
    assert "note: B: 1 of 1 scans" in said


def test_cases_in_python_meet_in_the_scans_frame_too():
    grid, score = turned(45), np.ones(1)
    label = np.zeros(1, int)

    def hull(box):
        return grid.boxes_to_lps_mm(np.array([box]))

    found = PredictedCase("x", hull(BESIDE), score, label, grid, np.array([BESIDE]))
    wanted = TargetCase("x", hull(ROD), label, None, grid, np.array([ROD]))
    assert evaluate([found], [wanted], ["rod"], num_bootstrap=0)[AP10] == 0
    assert mean_average_precision([found], [wanted], ["rod"]) == 0
    assert of_boxes([found], [wanted], ["rod"])[0].iou.item() == 0


@pytest.fixture
def store(tmp_path):
    """A store of one oblique scan with a rod, and the rod and the place beside it in voxels of the store."""
    source = turned(45)
    grid = source.canonical()[0].resampled((2.0, 1.0, 0.5))
    rods = source.map_boxes(np.array([ROD, BESIDE]), grid)
    image = np.zeros((1, *grid.shape), np.int16)
    region = source.map_boxes(np.array([[10.0, 16, 10, 34, 18, 12]]), grid)[0]
    objects = [Instance(0, 0, tuple(rods[0]))]
    one = CaseData("x", image, grid, source, "x.nii", objects, ignore_boxes=[tuple(region)], patient="p")
    write_index(tmp_path / "store", ["rod"], None, [write_case(tmp_path / "store", one)], {"test": ["x"]})
    return tmp_path / "store", rods


def test_what_a_store_and_a_detector_write_of_an_oblique_scan_is_scored_as_at_the_end_of_a_run(store, tmp_path, capsys):
    folder, rods = store
    case, labels = Store(folder).case("x"), torch.zeros(2, dtype=torch.int64)
    shaken = torch.as_tensor(rods + np.array([0.3, 0, 0.1, 0.3, 0, 0.5]), dtype=torch.float32)
    detections = Detections(shaken, torch.tensor([0.8, 0.9]), labels)
    write_predictions(tmp_path, ["rod"], [Prediction.of("x", detections, case.grid, case.source_grid)])
    targets, out = str(tmp_path / "targets.json"), tmp_path / "out.json"
    assert main(["targets", str(folder), "--split", "test", "-o", targets]) == 0
    files = ["--predictions", str(tmp_path / "predictions.json"), "--targets", targets, "-o", str(out)]
    assert main(["evaluate", *files, "--bootstrap", "0"]) == 0
    result = json.loads(out.read_text())
    assert result[AP50] == pytest.approx(0.5)  # the better score is on the place beside, half is precision
    end = CaseResult.of(case, detections).in_mm()
    assert end.target.patient == "p"
    expected = evaluate([end.predicted], [end.target], ["rod"], num_bootstrap=0)
    for key in ("mAP_IoU_0.10_0.50_0.05_MaxDet_100", AP10, AP50, "AP_IoU_0.75_MaxDet_100", "FROC_curve_IoU_0.50"):
        assert result[key] == expected[key]
    assert "note:" not in capsys.readouterr().out


def test_targets_say_where_objects_and_regions_lie_in_the_scan(store, tmp_path):
    assert main(["targets", str(store[0]), "--split", "test", "-o", str(tmp_path / "targets.json")]) == 0
    (one,) = json.loads((tmp_path / "targets.json").read_text())["targets"]
    assert one["grid"] == turned(45).to_json()
    assert one["patient"] == "p"
    np.testing.assert_allclose(one["boxes_vox"], [ROD], atol=1e-3)
    np.testing.assert_allclose(one["ignore_vox"], [[10, 16, 10, 34, 18, 12]], atol=1e-3)
