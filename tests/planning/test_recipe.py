"""A plan becomes a whole recipe, whatever the data are like, and says what is doubtful about them."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace

import numpy as np
import pytest
import yaml

from medpretrain3d import cli
from medpretrain3d.planning import make_plan
from medpretrain3d.planning import recipe as recipe_file
from medpretrain3d.planning.fingerprint import Fingerprint, warnings_of
from medpretrain3d.planning.recipe import is_as_written, recipe_name, recipe_text
from medpretrain3d.planning.requirements import requirements
from medpretrain3d.planning.setup import CPU, GPU
from medpretrain3d.planning.spacing import coarser_spacing_mm
from medpretrain3d.store.case import CaseData, Instance, index_row, write_case
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.splits import Splits
from medpretrain3d.store.store import Store, write_index

SMALL = replace(CPU, memory_gib=1.4, preset="XXS", anchors_per_level=2)


def write_store(
    folder,
    num_cases=6,
    classes=("lesion",),
    splits=None,
    masks=False,
    channels=1,
    patient=None,
    spacing=None,
    points=False,
):
    """A store of scans of 20 x 32 x 32 voxels of 2 x 1 x 1 mm with a box, or a point, of each class."""
    grid, rows = Grid((20, 32, 32), np.diag([1.0, 1, 2, 1])), []
    for number in range(num_cases):
        image = np.random.default_rng(number).integers(-200, 200, (channels, *grid.shape)).astype(np.int16)
        mask = np.zeros(grid.shape, np.uint16) if masks else None
        objects = []
        for label in range(len(classes)):
            low = (2 + label, 4 + 6 * label, 4)
            if mask is not None:
                mask[tuple(slice(one, one + 6) for one in low)] = label + 1
            box = (*map(float, low), *(float(one + (0 if points else 6)) for one in low))
            objects.append(Instance(label + 1 if masks else 0, label, box, 216 if masks else None))
        one = CaseData(f"c{number}", image, grid, grid, "x.nii", objects, mask, patient=patient)
        rows.append(write_case(folder, one))
    write_index(
        folder, classes, spacing, rows, splits or {}, [f"MR{n}" for n in range(channels)] if channels > 1 else ["CT"]
    )
    return Store(folder)


def text_of(store, setup=SMALL, splits=None):
    asked = (setup.memory_gib, setup.preset, setup.anchors_per_level, setup.min_batch_size)
    plan = make_plan(Corpus([store.path]), *asked, setup=setup)
    fingerprint = Fingerprint.of(store)
    warnings = warnings_of(store, fingerprint, plan)
    return recipe_text(plan, fingerprint, setup, "data/x", splits or store.all_splits, "configs/x.yaml", warnings)


def test_boxes_alone_are_for_retinanet_and_outlines_for_retina_unet(tmp_path):
    boxes = yaml.safe_load(text_of(write_store(tmp_path / "boxes")))
    masks = yaml.safe_load(text_of(write_store(tmp_path / "masks", masks=True)))
    assert boxes["model"]["detector"]["class_path"] == "RetinaNet"
    assert masks["model"]["detector"]["class_path"] == "RetinaUNet"
    assert boxes["run"] == {"group": "boxes", "name": "scratch"}
    assert boxes["data"]["store"] == "data/x"
    assert boxes["model"]["detector"]["init_args"]["num_classes"] == 1


def test_test_cases_do_not_choose_the_recipe(tmp_path):
    """Their objects are boxes of 40 voxels, those for training are outlined and have 6."""
    store, grid = write_store(tmp_path / "s", masks=True), Grid((64, 64, 64), np.eye(4))
    small, ids = text_of(store), [f"c{number}" for number in range(6)]
    rows = [index_row(store.case(case_id).sidecar) for case_id in ids]
    for number in range(10):
        image, large = np.zeros((1, *grid.shape), np.int16), [Instance(0, 0, (9.0, 9, 9, 49, 49, 49))]
        rows.append(write_case(store.path, CaseData(f"t{number}", image, grid, grid, "x.nii", large)))
    test = [f"t{number}" for number in range(10)]
    write_index(store.path, ["lesion"], None, rows, {"train": ids, "test": test}, ["CT"])
    text = text_of(Store(store.path))
    assert "RetinaUNet" in text
    assert yaml.safe_load(text)["model"].get("inference") == yaml.safe_load(small)["model"].get("inference")
    assert "nms_iou" not in text


@pytest.mark.parametrize(
    ("setup", "masks"), [(SMALL, True), (replace(GPU, preset="XXS", memory_gib=2.0, anchors_per_level=2), False)]
)
def test_a_recipe_needs_what_its_plan_says(tmp_path, setup, masks):
    """`plan STORE` and `plan --config` are one estimate."""
    text = text_of(write_store(tmp_path / "s", masks=masks), setup)
    said = re.search(r"about ([\d.]+) GiB", text)
    assert said
    needs = requirements(yaml.safe_load(text), "finetune")
    assert float(said[1]) == round(needs.memory.gib, 2) <= setup.memory_gib


@pytest.mark.parametrize(
    ("num_train", "said"),
    [(1, "one patient: nothing can be held out"), (3, "3 patients: there are as many folds"), (7, "")],
)
def test_patients_that_are_tested_on_make_no_folds(tmp_path, num_train, said):
    train, test = ([f"c{number}" for number in numbers] for numbers in (range(num_train), range(num_train, 9)))
    text = text_of(write_store(tmp_path / "s", num_cases=9, splits={"train": train, "test": test}))
    told = [line for line in text.splitlines() if "patient" in line]
    assert (said in told[0]) if said else not told


def test_points_are_for_heat_maps(tmp_path):
    text = text_of(write_store(tmp_path / "points", points=True))
    recipe = yaml.safe_load(text)
    arguments = recipe["model"]["detector"]["init_args"]
    assert recipe["model"]["detector"]["class_path"] == "HeatMap"
    assert "anchors" not in arguments
    spacing_mm, strides = arguments["spacing_mm"], np.prod(arguments["backbone"]["init_args"]["strides"][:2], axis=0)
    radius_mm = max(5.0, 1.5 * float((strides * spacing_mm).max()))
    assert arguments["target"] == {"class_path": "BallTarget", "init_args": {"radius_mm": radius_mm}}
    assert recipe["model"]["inference"] == {"merge": "distance", "merge_distance_mm": radius_mm}
    needs = requirements(recipe, "finetune")
    said = re.search(r"about ([\d.]+) GiB", text)
    assert said
    assert float(said[1]) == round(needs.memory.gib, 2) <= SMALL.memory_gib


def test_the_command_plans_points(tmp_path, monkeypatch, capsys):
    store = write_store(tmp_path / "points", points=True)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", str(store.path), "--accelerator", "cpu", "--preset", "XXS"]) == 0
    said = capsys.readouterr()
    assert "6 objects are points" in said.err
    assert yaml.safe_load(said.out)["model"]["detector"]["init_args"]["first_level"] == 1
    recipe = yaml.safe_load((tmp_path / "configs" / "points.yaml").read_text())
    assert Store(recipe["data"]["store"]).spacing_mm == tuple(recipe["model"]["detector"]["init_args"]["spacing_mm"])
    page = (tmp_path / "configs" / "points.html").read_text()
    assert "ResEnc-XXS in a HeatMap, which learns their centers and no size." in page
    assert "RetinaNet" not in page
    assert cli.main(["plan", str(store.path), "-o", "plan.json"]) == 0
    capsys.readouterr()
    assert cli.main(["plan", "plan.json"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["detector"]["init_args"]["first_level"] == 1


def test_channels_and_sides_are_in_it(tmp_path):
    classes = ("kidney_left", "kidney_right")
    recipe = yaml.safe_load(text_of(write_store(tmp_path / "two", classes=classes, channels=2)))
    arguments = recipe["model"]["detector"]["init_args"]
    assert arguments["backbone"]["init_args"]["in_channels"] == 2
    assert arguments["num_classes"] == 2
    assert recipe["data"]["augment"]["init_args"]["mirror_axes"] == [0, 1]
    assert "mirror_axes" not in yaml.safe_load(text_of(write_store(tmp_path / "one")))["data"]["augment"]["init_args"]


def test_folds_and_test_cases_decide_what_is_measured(tmp_path):
    ids = [f"c{number}" for number in range(6)]
    fold = {"train": tuple(ids[2:]), "val": tuple(ids[:2])}
    store = write_store(tmp_path / "folds")
    of_folds = yaml.safe_load(text_of(store, splits=Splits({"train": tuple(ids)}, (fold, fold))))["data"]
    assert (of_folds["fold"], of_folds["test_on"]) == (0, "held_out")
    named = Splits({"train": tuple(ids[2:]), "test": tuple(ids[:1])}, (fold,))
    with_test = yaml.safe_load(text_of(store, splits=named))["data"]
    assert with_test["fold"] == 0
    assert "test_on" not in with_test
    assert "--folds all" in text_of(store, splits=Splits({"train": tuple(ids)}, (fold, fold)))
    assert "--folds all" not in text_of(store, splits=named)
    own_test = yaml.safe_load(text_of(store, splits=Splits({"train": tuple(ids)}, ({**fold, "test": ("c0",)},))))[
        "data"
    ]
    assert "test_on" not in own_test
    official = write_store(tmp_path / "named", splits={"val": ["c0"], "test": ["c1"]})
    assert not {"fold", "test_on"} & set(yaml.safe_load(text_of(official))["data"])


def test_a_gpu_has_the_published_schedule_and_a_cpu_a_short_one(tmp_path):
    store = write_store(tmp_path / "s", num_cases=12)
    gpu = yaml.safe_load(text_of(store, replace(GPU, preset="XXS", memory_gib=3.0)))
    cpu = yaml.safe_load(text_of(store))
    assert (gpu["trainer"]["max_steps"], gpu["trainer"]["val_check_interval"]) == (125_000, 12_500)
    assert "callbacks" not in gpu["trainer"]
    assert cpu["trainer"]["max_steps"] == 800
    assert cpu["model"]["detector"]["init_args"]["classification"] == {"class_path": "FocalLoss"}


def test_what_is_doubtful_is_a_comment_and_the_recipe_is_whole_nevertheless(tmp_path):
    store = write_store(tmp_path / "one", num_cases=1, masks=True)
    text = text_of(store)
    assert "# Warning:   training cases that hold a class: 'lesion' 1; with fewer than 10" in text
    assert "one patient: nothing can be held out" in text
    assert "# No case is held out, so nothing is measured while training." in text
    assert yaml.safe_load(text)["data"].keys() >= {"store", "patch", "batch_size"}
    assert all(len(line) <= 120 for line in text.splitlines())


def test_a_recipe_whose_runs_end_without_a_test_says_so(tmp_path):
    untested = write_store(tmp_path / "untested", splits={"train": ["c0", "c1", "c2"], "val": ["c3", "c4", "c5"]})
    assert "# Warning:   no case is named for testing, so a run ends without a test" in text_of(untested)
    tested = write_store(tmp_path / "tested", splits={"train": ["c0", "c1", "c2", "c3"], "val": ["c4"], "test": ["c5"]})
    assert "without a test" not in text_of(tested)


def test_names_that_yaml_reads_otherwise_stay_what_they_are(tmp_path):
    store = write_store(tmp_path / "12 é: #x", classes=("a: b", "#c", "d'e"))
    recipe = yaml.safe_load(text_of(store))
    assert recipe["run"]["group"] == "12_é_x"
    assert recipe["model"]["detector"]["init_args"]["num_classes"] == 3
    assert recipe_name(tmp_path / "12 é: #x") == "12_é_x"


def test_the_commands_of_a_recipe_can_be_copied(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_store(tmp_path / "mine", num_cases=3, spacing=(2.0, 1.0, 1.0))
    place = f"{'of my own ' * 12}ü/x.yaml"
    command = ["plan", "mine", "--accelerator", "cpu", "--preset", "XXS", "--memory", "1.4", "--recipe", place]
    assert cli.main(command) == 0
    lines = (tmp_path / place).read_text().splitlines()
    said = [shlex.split(line[13:]) for line in lines if line.startswith(("# Run: ", f"# {'':11}medpretrain3d"))]
    assert said == [["medpretrain3d", "finetune", "--config", place, *more] for more in ([], ["--folds", "all"])]


def test_a_recipe_knows_whether_it_was_edited(tmp_path):
    text = text_of(write_store(tmp_path / "s"))
    assert is_as_written(text)
    assert not is_as_written(text.replace("batch_size: 1", "batch_size: 2"))
    assert not is_as_written(f"{text}trainer: {{max_steps: 3}}\n")
    assert not is_as_written("run: {}\n")


def test_a_cpu_takes_cubes_as_coarse_as_the_objects_allow():
    scan_mm = np.array([300.0, 400, 400])
    # 100 x 400 x 400 voxels; cubes of 4 mm are 75 x 100 x 100.
    assert coarser_spacing_mm((3.0, 1.0, 1.0), scan_mm, np.array([]), 750_000) == (4.0, 4.0, 4.0)
    assert coarser_spacing_mm((5.0, 1.0, 1.0), scan_mm, np.array([]), 600_000) == (5.0, 4.0, 4.0)
    # Objects of 10 mm keep 4 voxels.
    assert coarser_spacing_mm((3.0, 1.0, 1.0), scan_mm, np.full(20, 10.0), 750_000) == (3.0, 2.5, 2.5)
    assert coarser_spacing_mm((3.0, 1.0, 1.0), scan_mm, np.full(20, 2.0), 750_000) == (3.0, 1.0, 1.0)
    assert coarser_spacing_mm((3.0, 1.0, 1.0), scan_mm, np.array([]), 1e9) == (3.0, 1.0, 1.0)


def test_the_command_writes_recipe_store_and_page_and_keeps_what_was_edited(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_store(tmp_path / "data" / "mine", num_cases=3)
    command = [
        "plan",
        "data/mine",
        "--accelerator",
        "cpu",
        "--preset",
        "XXS",
        "--memory",
        "1.4",
        "--spacing-mm",
        "2",
        "2",
        "2",
    ]
    assert cli.main(command) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[-1] == "# medpretrain3d finetune --config configs/mine.yaml"
    assert "every scan keeps its own spacing; the recipe resamples all to 2 x 2 x 2 mm" in told.err
    recipe = tmp_path / "configs" / "mine.yaml"
    data = yaml.safe_load(recipe.read_text())["data"]
    assert data["store"] == "data/mine_at_2x2x2mm"
    planned = Store(tmp_path / data["store"])
    assert planned.spacing_mm == (2, 2, 2)
    assert len(planned.all_splits.folds) == 3  # as many as patients
    assert Store(tmp_path / "data/mine").all_splits.folds == ()
    page = (tmp_path / "configs" / "mine.html").read_text()
    assert "lesion" in page
    assert page.count("data:image/webp;base64,") == 3
    assert page.count("<table>") == page.count('<div class="wide" tabindex="0"><table>') > 0  # each scrolls in its box
    assert "background: linear-gradient(to right, var(--card) 50%, transparent)" in page  # and its edge says so
    assert not set(page.replace("http-equiv", "").split("http")[1:]) - {
        p for p in page.split("http")[1:] if p.startswith("://www.w3.org")
    }
    before = recipe.read_bytes()
    assert cli.main(command) == 0  # of an unchanged recipe
    assert recipe.read_bytes() == before
    recipe.write_text(recipe.read_text().replace("max_steps: 800", "max_steps: 80"))
    capsys.readouterr()
    assert cli.main(command) == 2
    assert "configs/mine.yaml: was changed since it was planned" in capsys.readouterr().err
    assert "max_steps: 80\n" in recipe.read_text()
    assert cli.main([*command, "--recipe", "other.yaml"]) == 0
    assert (tmp_path / "other.html").is_file()


def test_spacings_that_are_near_have_places_of_their_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_store(tmp_path / "mine", num_cases=2)

    def planned(edge, *options):
        command = ["plan", "mine", "--accelerator", "cpu", "--preset", "XXS", "--memory", "1.4", *options]
        code = cli.main([*command, "--spacing-mm", "2", "1.5", edge])
        return yaml.safe_load((tmp_path / "configs/mine.yaml").read_text())["data"]["store"] if code == 0 else code

    assert planned("1.5031") == "mine_at_2x1.5x1.5031mm"
    assert planned("1.5034") == "mine_at_2x1.5x1.5034mm"
    assert planned("1.6") == "mine_at_2x1.5x1.6mm"
    (tmp_path / "mine_at_2x1.5x1.5031mm").rename(tmp_path / "mine_at_2x1.5x1.5mm")  # as earlier versions named it
    assert planned("1.5031") == "mine_at_2x1.5x1.5mm"
    capsys.readouterr()
    assert planned("1.5034", "--resampled", "mine_at_2x1.5x1.5mm") == 2
    assert "mine_at_2x1.5x1.5mm: is a store at 2.0 x 1.5 x 1.5031 mm" in capsys.readouterr().err


def test_a_recipe_of_another_store_or_a_page_of_no_plan_is_not_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for site in "AB":
        write_store(tmp_path / site / "ct", num_cases=2)
    options = ["--accelerator", "cpu", "--preset", "XXS", "--memory", "1.4", "--spacing-mm", "2", "2"]
    assert cli.main(["plan", "A/ct", *options, "2"]) == 0
    recipe = tmp_path / "configs" / "ct.yaml"
    before = recipe.read_bytes()
    capsys.readouterr()
    assert cli.main(["plan", "B/ct", *options, "2"]) == 2
    assert (
        "configs/ct.yaml: is the recipe of A/ct, asked for is one of B/ct; write another one" in capsys.readouterr().err
    )
    assert recipe.read_bytes() == before
    assert not (tmp_path / "B" / "ct_at_2x2x2mm").exists()
    assert cli.main(["plan", str(tmp_path / "A/ct"), *options, "3"]) == 0  # the same store at another spacing

    earlier, seal = recipe.read_text().rsplit("\n# Planned for the store: ")[0], recipe_file.SEAL
    recipe.write_text(f"{earlier}\n{seal}{recipe_file._seal(earlier)}\n")
    assert cli.main(["plan", "B/ct", *options, "2"]) == 2
    assert "ct_at_2x2x3mm, asked for is one of B/ct" in capsys.readouterr().err
    assert cli.main(["plan", "A/ct", *options, "2"]) == 0

    (tmp_path / "notes.html").write_text("<title>Mine</title>")
    assert cli.main(["plan", "A/ct", *options, "2", "--recipe", "notes.yaml"]) == 2
    assert "notes.html: is no page of a plan; rename it" in capsys.readouterr().err
    assert not (tmp_path / "notes.yaml").exists()


def test_a_store_of_one_spacing_is_trained_on_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_store(tmp_path / "mine", num_cases=2, spacing=(2.0, 1.0, 1.0), patient="p")
    command = ["plan", "mine", "--accelerator", "cpu", "--preset", "XXS", "--memory", "1.4"]
    assert cli.main(command) == 0
    assert yaml.safe_load((tmp_path / "configs/mine.yaml").read_text())["data"]["store"] == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "configs"}
    capsys.readouterr()
    assert cli.main([*command, "--spacing-mm", "2", "2", "2"]) == 2
    assert "mine: is resampled to [2.0, 1.0, 1.0] mm, asked for are [2.0, 2.0, 2.0]" in capsys.readouterr().err


def test_a_plan_takes_no_options_of_a_store(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_store(tmp_path / "mine")
    assert cli.main(["plan", "mine", "--memory", "3", "--preset", "XXS", "-o", "plan.json"]) == 0
    assert not (tmp_path / "configs").exists()
    assert cli.main(["plan", "plan.json", "--foreground", "--recipe", "x.yaml"]) == 2
    assert "plan: got --foreground, --recipe for plan.json, which is a plan" in capsys.readouterr().err
    assert cli.main(["plan", "--config", "demo", "--accelerator", "gpu"]) == 2
    assert "got a recipe and a store" in capsys.readouterr().err
