"""Objects without a size: from a table of centers to a store, crops, targets and scores, and who refuses them."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch

import medpretrain3d as mp
from medpretrain3d.cli import main
from medpretrain3d.cross_validation.validation_scores import operating_points_of, score_of_merging
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import TargetCase, evaluate
from medpretrain3d.evaluation.cases import PredictedCase
from medpretrain3d.evaluation.center_distance import center, match_objects
from medpretrain3d.evaluation.named_metrics import METRICS, without_each
from medpretrain3d.evaluation.protocols import CENTER, DETECTION, protocol_of
from medpretrain3d.inference import InferenceConfig
from medpretrain3d.ingest.prepare import prepare
from medpretrain3d.ingest.prepare_options import PrepareOptions
from medpretrain3d.loading.augment import SpatialAugment
from medpretrain3d.loading.crops import CropReader
from medpretrain3d.loading.object_crops import ObjectCrops
from medpretrain3d.loading.sampling import CaseOrder, CropSampler
from medpretrain3d.planning.make import make_plan
from medpretrain3d.store import Store
from medpretrain3d.store.corpus import CaseRef, Corpus
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.intensity import Window
from medpretrain3d.store.points import are_points
from medpretrain3d.store.targets import targets_json
from medpretrain3d.visualization.drawing import with_seen_points

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # NIfTI is RAS
CENTERS = {"a": [(10.0, 20.0, 30.0), (0.0, 0.0, 0.0)], "b": [(12.5, 8.25, 40.75)]}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Two scans of 2 x 1 x 1.5 mm and a table: points, one of them at the corner of the scan, and one sphere."""
    import nibabel

    folder = tmp_path_factory.mktemp("points")
    for seed, name in enumerate("ab"):
        voxels = np.random.default_rng(seed).integers(-100, 200, (24, 40, 32), dtype=np.int16)
        nibabel.save(nibabel.Nifti1Image(voxels, LPS @ np.diag([2.0, 1.0, 1.5, 1.0])), folder / f"{name}.nii.gz")
    rows = [f"{name}.nii.gz,microbleed,{x},{y},{z}," for name, all_ in CENTERS.items() for x, y, z in all_]
    rows.append("b.nii.gz,aneurysm,20,20,20,6")
    (folder / "points.csv").write_text("\n".join(["image,label,x_lps_mm,y_lps_mm,z_lps_mm,diameter_mm", *rows, ""]))
    return folder


@pytest.fixture(scope="module")
def store(raw, tmp_path_factory):
    """At another spacing than the files'."""
    path = tmp_path_factory.mktemp("store") / "store"
    summary = prepare(raw, path, PrepareOptions(spacing_mm=(1.5, 1.5, 1.5)))
    assert not summary.skipped
    return Store(path)


def test_a_center_without_a_diameter_is_a_point_at_its_place_whatever_the_grid(store):
    for name, centers in CENTERS.items():
        case = store.case(name)
        marks = are_points(case.boxes)
        assert marks.sum() == len(centers)
        found = case.grid.boxes_to_lps_mm(case.boxes[marks])
        np.testing.assert_allclose(found, np.tile(centers, 2), atol=1e-4)
    assert are_points(store.case("b").boxes).tolist() == [True, False]
    report = json.loads((store.path / "report.json").read_text(encoding="utf-8"))
    counted = {one["reason"]: one["count"] for one in report["remarks"]}
    assert counted["objects without a size, kept as points"] == 3
    assert set(report["sizes_mm"]) == {"aneurysm"}  # points have none


@pytest.mark.parametrize(
    "row", ["7,7,7,7,7,7,,,,", "7,7,7,7,8,9,,,,", ",,,,,,10,10,10,0"], ids=["point", "line", "diameter 0"]
)
def test_a_box_or_a_sphere_without_extent_is_no_point(raw, tmp_path, row):
    for name in "ab":
        shutil.copy(raw / f"{name}.nii.gz", tmp_path)
    head = "image,x0_vox,y0_vox,z0_vox,x1_vox,y1_vox,z1_vox,x_vox,y_vox,z_vox,diameter_mm"
    lines = [head, "a.nii.gz,5,5,5,9,9,9,,,,", "b.nii.gz,5,5,5,9,9,9,,,,", f"b.nii.gz,{row}", ""]
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    (skipped,) = prepare(tmp_path, tmp_path / "store").skipped
    assert (skipped["case"], skipped["kind"]) == ("b", "annotation")
    assert re.match(r"1 of 2 objects: the (box|sphere) .* is empty; correct it, or give its center", skipped["reason"])
    assert list(Store(tmp_path / "store").entries) == ["a"]


def test_objects_of_any_data_set_are_kept_as_points_where_that_is_asked_for(raw, store, tmp_path):
    prepare(raw, tmp_path / "store", PrepareOptions(as_points=True))
    case = Store(tmp_path / "store").case("b")
    assert are_points(case.boxes).all()
    assert not case.has_mask
    found = case.grid.boxes_to_lps_mm(case.boxes)[:, :3]
    np.testing.assert_allclose(found, [*CENTERS["b"], (20, 20, 20)], atol=1e-4)


def test_targets_of_points_are_points_and_read_again(store, tmp_path):
    document = targets_json(store, ["a", "b"])
    for entry in document["targets"]:
        boxes = np.array(entry["boxes"])
        assert are_points(boxes).sum() == len(CENTERS[entry["case"]])
        assert are_points(np.array(entry["boxes_vox"])).sum() == len(CENTERS[entry["case"]])


def test_a_point_stays_a_point_on_an_oblique_grid():
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.7, 1.1, 2.3])
    grid, other = Grid((20, 20, 20), affine), Grid((20, 20, 20), np.diag([1.3, 0.9, 1.7, 1.0]))
    points = np.tile(np.random.default_rng(0).uniform(0, 20, (50, 3)), 2)
    for mapped in (grid.map_boxes(points, other), grid.boxes_to_lps_mm(points)):
        assert are_points(mapped).all()
    back, is_exact = grid.boxes_from_lps_hulls(grid.boxes_to_lps_mm(points))
    assert is_exact.all()
    np.testing.assert_allclose(back, points, atol=1e-9)


@pytest.mark.parametrize("augment", [None, SpatialAugment(rotation_p=1.0, zoom_p=1.0), "elastic"])
def test_a_crop_holds_the_points_inside_of_it_at_their_places(store, augment):
    if augment == "elastic":
        augment = SpatialAugment(rotation_p=1.0, elastic_p=1.0)
    patch = (12, 16, 16)
    reader = CropReader(patch, Window(), augment, None, CropSampler(object_share=1.0))
    order = CaseOrder([CaseRef(store, "a")], seed=0)
    crops, num_points = ObjectCrops(order, reader), 0
    for position in range(20):
        _, targets = crops[position]
        boxes = targets.boxes.numpy()
        assert are_points(boxes).all()
        assert (boxes >= 0).all()
        assert (boxes <= np.tile(patch, 2)).all()
        num_points += len(boxes)
    assert num_points > 10


def test_a_table_that_leaves_an_ignore_region_without_size_is_refused(tmp_path):
    (tmp_path / "a.nii").touch()
    (tmp_path / "points.csv").write_text("image,x_vox,y_vox,z_vox,ignore\na.nii,1,2,3,1\na.nii,1,2,3,0\n")
    with pytest.raises(UserError, match="an ignore region without diameter_mm"):
        prepare(tmp_path, tmp_path / "store")


def scans(offset=0.0):
    """Two scans in mm: two points each, found 3 and 7 mm away."""
    points = np.tile([[10.0, 10, 10], [40, 40, 40]], 2)
    found = np.array([[13.0, 10, 10, 13, 10, 10], [47, 40, 40, 47, 40, 40]]) + np.repeat([-1.0, 1.0], 3)
    targets = [TargetCase(name, points, np.array([0, 0])) for name in "ab"]
    return [PredictedCase(name, found + offset, np.array([0.9, 0.8]), np.array([0, 0])) for name in "ab"], targets


def test_points_are_scored_by_distance_and_refused_by_overlap():
    found, wanted = scans()
    result = center(found, wanted, ["p"])  # within 5 mm, the radius of what has no size
    assert result["AP"] == pytest.approx(51 / 101)  # recall 0.5 at precision 1
    assert center(found, wanted, ["p"], 8.0)["AP"] == 1
    assert center(found, wanted, ["p"], 2.0)["AP"] == 0
    with pytest.raises(UserError, match=r"4 of 4 objects are points.*--protocol centre"):
        evaluate(found, wanted, ["p"])
    with pytest.raises(UserError, match="criterion 'box'"):
        center(found, wanted, ["p"], "box")
    assert match_objects(found, wanted, ["p"], 0.1).pooled.is_hit.sum() == 2
    metrics = without_each([METRICS["mAP"], METRICS["AP_center"], METRICS["CPM"]], found, wanted, ["p"])
    assert np.isnan(metrics["mAP"].value)
    assert metrics["AP_center"].value == pytest.approx(51 / 101)
    assert metrics["CPM"].value > 0
    assert operating_points_of(found, wanted, ["p"])["classes"]["p"]["hits"] == [0.9, 0.9]


def test_the_protocol_follows_the_objects():
    found, wanted = scans()
    assert protocol_of(wanted) is CENTER
    assert CENTER.primary == "AP_center"
    assert CENTER.score(found, wanted, ["p"], num_bootstrap=0)[CENTER.watched["AP_center"]] == pytest.approx(51 / 101)
    boxes = [TargetCase(one.case, one.boxes + np.repeat([-1.0, 1], 3), one.labels) for one in wanted]
    assert protocol_of(boxes) is DETECTION
    assert set(DETECTION.score(found, boxes, ["p"], num_bootstrap=0)) >= set(DETECTION.watched.values())


def test_merging_of_points_is_chosen_by_distance_in_mm():
    from medpretrain3d.boxes import Detections, Targets
    from medpretrain3d.inference.cached_detections import CachedCase
    from medpretrain3d.inference.raw_detections import RawDetections

    targets = Targets(torch.tensor([[4.0, 4, 4, 4, 4, 4]]), torch.tensor([0]))
    case = CachedCase("a", (3.0, 1.0, 1.0), RawDetections.cat([]), targets)
    name, score = score_of_merging([case], InferenceConfig(), ["p"])
    assert name == "AP_center"

    def at(*middle):
        middle = torch.tensor([middle])
        return [Detections(torch.cat([middle - 1, middle + 1], 1), torch.tensor([0.9]), torch.tensor([0]))]

    assert score(at(4.0, 4.0, 8.5), [targets]) == 1  # 4.5 mm
    assert score(at(6.0, 4.0, 4.0), [targets]) == 0  # 6 mm
    box = CachedCase(
        "a", (1.0, 1.0, 1.0), case.raw_detections, Targets(torch.tensor([[0.0, 0, 0, 4, 4, 4]]), targets.labels)
    )
    assert score_of_merging([box], InferenceConfig(), ["p"])[0] == "mAP"
    assert score_of_merging([box], InferenceConfig(merge="distance"), ["p"])[0] == "AP_center"


def test_sizes_are_planned_without_points(store, tmp_path):
    plan = make_plan(Corpus([store.path]), memory_gib=2.0, preset="XXS")
    assert plan.report["points_without_size"] == 3
    assert plan.report["num_boxes"] == 1
    assert np.isfinite([size for level in plan.anchors for anchor in level for size in anchor]).all()
    of_all = make_plan(Corpus([store.path]), memory_gib=2.0, preset="XXS", finds_points=True)
    assert (of_all.anchors, of_all.first_level) == (None, 1)


def test_evaluate_and_split_and_targets_take_points_and_say_what_they_cannot_do(store, tmp_path, capsys):
    assert main(["split", str(store.path), "--folds", "2"]) == 0
    assert main(["targets", str(store.path), "--split", "all", "-o", str(tmp_path / "targets.json")]) == 0
    document = json.loads((tmp_path / "targets.json").read_text(encoding="utf-8"))
    predictions = {**document, "format": "medpretrain3d-predictions", "predictions": document.pop("targets")}
    for entry in predictions["predictions"]:
        entry["scores"] = [0.5] * len(entry["labels"])
    (tmp_path / "predictions.json").write_text(json.dumps(predictions))
    files = ["--predictions", str(tmp_path / "predictions.json"), "--targets", str(tmp_path / "targets.json")]
    assert main(["evaluate", *files]) == 2
    assert "3 of 4 objects are points" in capsys.readouterr().err
    assert main(["evaluate", "--protocol", "centre", *files, "-o", str(tmp_path / "scores.json")]) == 0
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["AP"] == 1
    assert main(["evaluate", "--protocol", "case-level", *files]) == 0
    assert mp.evaluate(tmp_path / "predictions.json", tmp_path / "targets.json", num_bootstrap=0)["AP"] == 1
    with pytest.raises(UserError, match="3 of 4 objects are points"):
        mp.evaluate(tmp_path / "predictions.json", tmp_path / "targets.json", protocol="detection")


def test_points_are_drawn_as_cubes():
    boxes = with_seen_points(np.array([[5.0, 5, 5, 5, 5, 5], [0, 0, 0, 4, 4, 4]]))
    assert boxes.tolist() == [[2, 2, 2, 8, 8, 8], [0, 0, 0, 4, 4, 4]]
