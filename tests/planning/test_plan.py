from __future__ import annotations

import json
import re

import numpy as np
import pytest
import SimpleITK as sitk
import yaml

from medpretrain3d import cli
from medpretrain3d.configurable import from_config
from medpretrain3d.errors import UserError
from medpretrain3d.planning import make_plan, read_plan
from medpretrain3d.planning.memory import Shown, planned_memory
from medpretrain3d.planning.spacing import target_spacing_mm
from medpretrain3d.planning.topology import plan_topology
from medpretrain3d.store.case import CaseData, Instance, write_case
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.store import Store, write_index

INTENSITY = "medpretrain3d.store.intensity."


def store(folder, spacings_mm=((2.0, 1.0, 1.0),) * 3, shape=(40, 60, 60), boxes=True):
    rows = []
    for number, spacing_mm in enumerate(spacings_mm):
        grid = Grid(shape, np.diag([*spacing_mm, 1.0])[[2, 1, 0, 3]])
        objects = [Instance(0, 0, (4.0, 8, 8, 8, 16, 16)), Instance(0, 0, (20.0, 10, 10, 28, 26, 26))] if boxes else []
        content = CaseData(f"c{number}", np.zeros((1, *shape), np.int16), grid, grid, "x.nii", objects)
        rows.append(write_case(folder, content))
    write_index(folder, ["lesion"] if boxes else [], None, rows, {})
    return folder


def test_spacing_is_the_median_and_the_tenth_percentile_where_slices_are_far_apart():
    even = np.array([[1.0, 0.5, 0.6], [2.0, 0.7, 0.7], [3.0, 0.9, 0.8]])
    shapes = np.array([[100, 512, 512]] * 3)
    assert target_spacing_mm(even, shapes) == (2.0, 0.7, 0.7)  # 2.0 is less than three times 0.7
    far = np.array([[float(slice_mm), 0.7, 0.7] for slice_mm in range(1, 12)])  # median 6, 10th percentile 2
    assert target_spacing_mm(far, np.array([[100, 512, 512]] * 11)) == (2.0, 0.7, 0.7)
    assert target_spacing_mm(far, np.array([[300, 512, 512]] * 11)) == (6.0, 0.7, 0.7)  # as many slices as rows
    assert target_spacing_mm(np.array([[5.0, 1.5, 1.5], [0.3, 1.5, 1.5], [6.0, 1.5, 1.5]]), shapes)[0] == 1.5


@pytest.mark.parametrize("spacing_mm", [360 / 512, 0.7, 350 / 512, 0.9765625, 0.9766, 1 / 3])
def test_scans_keep_their_voxels_at_a_spacing_that_all_have(tmp_path, spacing_mm):
    header_mm = float(np.float32(spacing_mm))  # 0.7 is 0.699999988
    corpus = Corpus([store(tmp_path, ((header_mm,) * 3,) * 2, (128, 128, 128))])
    plan = make_plan(corpus, 16, preset="XXS", anchors_per_level=1)
    assert plan.spacing_mm == pytest.approx((spacing_mm,) * 3, rel=1e-7)
    assert len(str(plan.spacing_mm[0])) <= 9
    assert plan.report["median_scan"] == [128] * 3
    assert plan.patch == (128, 128, 128)
    assert Grid((512,) * 3, np.diag([header_mm] * 3 + [1])).resampled(plan.spacing_mm).shape == (512,) * 3


def test_coarse_axes_wait_until_the_others_have_come_to_their_spacing():
    even = plan_topology((1, 1, 1), (64, 64, 64), 4)
    assert even.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert even.kernel_sizes == ((3, 3, 3),) * 4
    assert even.reached == ((1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8))
    # 5 mm slices: planes of 0.7 and 1.4 mm are halved alone; at 2.8 mm slices are less than twice as far apart.
    slices = plan_topology((5, 0.7, 0.7), (32, 256, 256), 5)
    assert slices.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2))
    assert slices.kernel_sizes == ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    # 16 voxels are halved twice and leave 4 cells; the other axes go on, with kernels as wide as before.
    short = plan_topology((1, 1, 1), (16, 128, 128), 5)
    assert short.reached[-1] == (4, 16, 16)
    assert short.kernel_sizes == ((3, 3, 3),) * 5


def test_a_plan_fits_its_memory_and_its_parts_fit_each_other(tmp_path):
    corpus = Corpus([store(tmp_path, shape=(120, 200, 200))])
    plan = make_plan(corpus, memory_gib=2, preset="XXS", anchors_per_level=3)
    assert plan.spacing_mm == (2, 1, 1)
    assert plan.report["estimated_gib"] <= 2
    assert plan.report["estimated_gib"] == round(planned_memory(plan, Shown(have_masks=False)).gib, 2)
    assert plan.batch_size == 2
    larger = make_plan(corpus, memory_gib=3, preset="XXS", anchors_per_level=3)
    assert np.prod(larger.patch) > np.prod(plan.patch)
    assert plan == make_plan(corpus, memory_gib=2, preset="XXS", anchors_per_level=3)
    # Boxes of 4 x 8 x 8 and 8 x 16 x 16 voxels: as many kinds as anchors, so each is met.
    assert plan.report["mean_best_iou"] == 1
    assert plan.report["boxes_per_level"] == [3, 3]
    assert plan.anchors is not None
    assert (4, 8, 8) in plan.anchors[0]
    assert (8, 16, 16) in plan.anchors[1]
    with pytest.raises(UserError, match=r"memory 1 GiB: a batch of 2 patches of .* takes .* GiB"):
        make_plan(corpus, memory_gib=1, preset="XXS")


def test_where_the_whole_scan_fits_the_batch_grows_but_not_beyond_its_share_of_the_data(tmp_path):
    few = make_plan(Corpus([store(tmp_path / "few", shape=(32, 32, 32))]), 3, "XXS", 2)
    assert few.patch == (32, 32, 32)
    assert few.batch_size == 2  # 5 % of three scans is less than one
    many = make_plan(Corpus([store(tmp_path / "many", ((1.0, 1, 1),) * 80, (32, 32, 32))]), 3, "XXS", 2)
    assert many.batch_size == 4  # 5 % of 80 scans


def test_planning_takes_native_spacings_apart_and_boxes_along(tmp_path):
    corpus = Corpus([store(tmp_path, [(2.0, 1.0, 1.0), (4.0, 1.0, 1.0), (4.0, 1.0, 1.0)])])
    plan = make_plan(corpus, 3, "XXS", 4)
    assert plan.spacing_mm == (4, 1, 1)
    assert plan.report["median_scan"] == [40, 60, 60]
    assert plan.report["num_boxes"] == 6
    assert plan.anchors is not None
    sizes = {size for level in plan.anchors for size in level}
    # 8 mm of the first scan are 2 voxels of 4 mm; the other two have 4 voxels of 4 mm.
    assert {(2, 8, 8), (4, 8, 8), (4, 16, 16), (8, 16, 16)} <= sizes


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "planned"),
    [
        ((40, 60, 60), (1000.0,) * 3, (1, 1, 1)),
        ((40, 60, 60), (90.0, 1.0, 1.0), (1, 60, 60)),
        ((6, 7, 7), (99.0,) * 3, (1, 1, 1)),
    ],
)
def test_a_spacing_that_leaves_one_voxel_is_refused(tmp_path, shape, spacing_mm, planned):
    corpus = Corpus([store(tmp_path, shape=shape, boxes=False)])
    message = f"spacing_mm {spacing_mm}: {shape} voxels would become {planned}, which show nothing; lower it"
    with pytest.raises(UserError, match=re.escape(message)):
        make_plan(corpus, 2, "XXS", spacing_mm=spacing_mm)


def test_a_plan_for_pretraining_has_no_anchors(tmp_path):
    plan = make_plan(Corpus([store(tmp_path, boxes=False)]), 2, "XXS")
    assert plan.anchors is None
    assert "detector" not in plan.recipe()["model"]
    plan.write(tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan


def test_the_command_writes_an_editable_plan_and_prints_a_recipe(tmp_path, capsys):
    path = tmp_path / "plan.json"
    folder = store(tmp_path / "store")
    assert cli.main(["plan", str(folder), "--memory", "3", "--preset", "XXS", "-o", str(path)]) == 0
    first = capsys.readouterr().out
    assert "# mean_best_iou: 1.0" in first
    assert "# prepare with --spacing-mm 2 1 1" in first
    arguments = yaml.safe_load(first)["model"]["detector"]["init_args"]
    assert from_config(arguments["anchors"]).num_levels == 2
    assert from_config(arguments["backbone"]).levels[0].stride == (1, 1, 1)
    document = json.loads(path.read_text(encoding="utf-8"))
    document["batch_size"] = 7
    path.write_text(json.dumps(document))
    assert cli.main(["plan", str(path)]) == 0
    second = capsys.readouterr().out
    assert yaml.safe_load(second)["data"]["batch_size"] == 7
    assert second.replace("batch_size: 7", "batch_size: 2") == first


def test_raw_scans_are_prepared_as_planned(tmp_path, capsys):
    raw, native, planned, path = (tmp_path / name for name in ("raw", "native", "planned", "plan.json"))
    mask = np.zeros((32, 32, 32), np.uint8)
    mask[4:12, 8:16, 8:16] = 1
    for number, slice_mm in enumerate((1.0, 2.0, 3.0)):
        image = np.where(mask > 0, 60, -900).astype(np.int16) + np.int16(number)
        for name, array in (("ct", image), ("seg", mask)):
            volume = sitk.GetImageFromArray(array)
            volume.SetSpacing((1.0, 1.0, slice_mm))
            (raw / f"p{number}").mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(volume, raw / f"p{number}" / f"{name}.mha")
    assert cli.main(["prepare", str(raw), str(native)]) == 0
    capsys.readouterr()
    plan_it = ["plan", str(native), "--memory", "3", "--preset", "XXS", "--foreground", "-o", str(path)]
    assert cli.main(plan_it) == 0
    window = yaml.safe_load(capsys.readouterr().out)["data"]["window"]
    assert window == read_plan(path).window
    assert read_plan(path).report["spacing_of_store"].startswith("each scan's own")
    assert window["class_path"] == INTENSITY + "ForegroundZScore"
    assert (window["init_args"]["low"], window["init_args"]["mean"]) == ([60], [61])  # objects of 60, 61 and 62
    assert cli.main(["prepare", str(raw), str(planned), "--plan", str(path)]) == 0
    case = Store(planned).case("p2__ct")
    assert Store(planned).spacing_mm == case.grid.spacing_mm == (2, 1, 1)
    assert case.grid.shape == (48, 32, 32)
    assert case.boxes.tolist() == [[6, 8, 8, 18, 16, 16]]  # 8 slices of 3 mm are 12 of 2 mm
    assert make_plan(Corpus([Store(planned).path]), 3, "XXS").spacing_mm == (2, 1, 1)
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        cli.main(["prepare", str(raw), str(planned), "--plan", str(path), "--spacing-mm", "1", "1", "1"])
    assert "--spacing-mm: not allowed with argument --plan" in capsys.readouterr().err
    assert cli.main(["prepare", str(raw), str(tmp_path / "none"), "--plan", str(tmp_path / "gone.json")]) == 2
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("spacing_mm", [1, 0, 1], r"spacing_mm: got \[1, 0, 1\], wanted three positive numbers"),
        ("patch", [32, 33, 32], r"patch: .*H is 33, must be a multiple of the coarsest stride 8; use 32 or 40"),
        ("patch", 32, r"patch: got 32, wanted three positive whole numbers"),
        ("batch_size", 1.5, r"batch_size: got 1.5, wanted a whole number"),
        ("preset", "XXXL", r"preset: got 'XXXL', wanted one of XXS"),
        ("strides", [[1, 1, 1]], r"strides: got 1, wanted 4, one per stage of XXS"),
        ("strides", 2, r"strides: got 2, wanted a list"),
        ("kernel_sizes", [[2, 3, 3]] * 4, r"kernel_sizes: an even kernel"),
        ("first_level", 3, r"first_level: got 3, wanted 0 to 2"),
        ("first_level", None, r"first_level and anchors: wanted both"),
        ("anchors", [[[4, 4, 4]], []], r"anchors: got \[1, 0\] per level"),
        ("anchors", [[[4, -4, 4]]], r"anchors: got \[4, -4, 4\]"),
        ("anchors", [4], r"anchors: got \[0\] per level"),
        ("window", "lung", r"window: got 'lung', wanted class_path and init_args"),
        ("window", {"class_path": "medpretrain3d.backbones.ResEnc"}, r"window: .*ResEnc is no normalisation"),
        (
            "window",
            {"class_path": INTENSITY + "NamedWindow", "init_args": {"name": "x"}},
            r"window: window 'x': wanted",
        ),
        ("pach", [32, 32, 32], r"pach: unknown key; a plan has spacing_mm, patch"),
    ],
)
def test_a_broken_edit_is_refused_by_the_name_of_its_key(tmp_path, key, value, message):
    path = tmp_path / "plan.json"
    make_plan(Corpus([store(tmp_path / "store")]), 3, "XXS", 2).write(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**document, key: value}))
    with pytest.raises(UserError, match=rf"plan\.json: {message}"):
        read_plan(path)


def test_files_that_are_no_plan_are_refused(tmp_path):
    path = tmp_path / "plan.json"
    with pytest.raises(UserError, match="cannot be read"):
        read_plan(path)
    path.write_text("{")
    with pytest.raises(UserError, match="is not valid JSON"):
        read_plan(path)
    path.write_text("{}")
    with pytest.raises(UserError, match="is no plan"):
        read_plan(path)
    make_plan(Corpus([store(tmp_path / "store")]), 3, "XXS", 2).write(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["patch"]
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match="patch: is missing"):
        read_plan(path)
