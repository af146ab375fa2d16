"""From raw data to a detector in three commands, without an option that a reader of the README would have to guess."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from finetune import __main__ as finetune
from medpretrain3d import cli
from medpretrain3d.inference import load_bundle
from medpretrain3d.store.store import Store

SMALL = ["--accelerator", "cpu", "--preset", "XXS", "--memory", "1.5"]
"""Of `plan`, beside what the README says."""
SHORT = [
    *("--trainer.max_steps", "1", "--trainer.val_check_interval", "1", "--data.num_workers", "0"),
    *("--model.optim.warmup_steps", "0"),
    *("--run.wandb", "disabled", "--model.inference.score_threshold", "0.0", "--model.inference.max_per_class", "5"),
]
SHAPE = (36, 32, 24)


@pytest.fixture
def own_data(tmp_path, monkeypatch, write_nifti):
    """Scans of two spacings in which two cubes of 10 voxels are bright, as a layout that users have."""
    monkeypatch.chdir(tmp_path)

    def write(layout: str, num_cases: int = 3) -> str:
        folder, rows = tmp_path / "raw", ["image,label,x0_vox,y0_vox,z0_vox,x1_vox,y1_vox,z1_vox"]
        for number in range(num_cases):
            image = np.random.default_rng(number).normal(-800, 40, SHAPE).astype(np.int16)
            mask = np.zeros(SHAPE, np.uint8)
            for value, low in ((1, (3, 4, 2)), (2, (20, 16, 10))):
                region = tuple(slice(one, one + 10) for one in low)
                image[region], mask[region] = 60, value
                rows.append(f"p{number}.nii.gz,cube,{','.join(map(str, [*low, *(one + 10 for one in low)]))}")
            affine = np.diag([1.0, 1.0, 2.0 + number % 2, 1])
            if layout == "nnunet":
                write_nifti(image, f"imagesTr/p{number}_0000.nii.gz", affine, folder)
                write_nifti(mask, f"labelsTr/p{number}.nii.gz", affine, folder)
            elif layout == "instances":
                write_nifti(image, f"images/p{number}.nii.gz", affine, folder)
                write_nifti(mask, f"instances/p{number}.nii.gz", affine, folder)
            else:
                write_nifti(image, f"p{number}.nii.gz", affine, folder)
        if layout == "boxes":
            (folder / "boxes.csv").write_text("\n".join(rows))
        if layout == "nnunet":
            labels = {"background": 0, "node_left": 1, "node_right": 2}
            (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels}))
        return str(folder)

    return write


@pytest.mark.parametrize(
    ("layout", "detector", "num_classes"), [("instances", "RetinaUNet", 1), ("boxes", "RetinaNet", 1)]
)
def test_three_commands_end_with_a_tested_detector(own_data, tmp_path, layout, detector, num_classes, capsys):
    assert cli.main(["prepare", own_data(layout), "data/mine"]) == 0
    assert "6  " in capsys.readouterr().out.partition("longest edge")[2]  # the closing table
    assert cli.main(["plan", "data/mine", *SMALL]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "# medpretrain3d finetune --config configs/mine.yaml"
    finetune.main(["--config", "configs/mine.yaml", *SHORT])
    run = tmp_path / "runs" / "mine" / "scratch"
    bundle = load_bundle(run / "bundle")
    assert (type(bundle.detector).__name__, len(bundle.classes)) == (detector, num_classes)
    assert bundle.preprocessing.spacing_mm == (2, 1, 1)
    metrics = json.loads((run / "test" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["num_cases"] == 1  # three patients are three folds, of which the first is held out


def test_classes_of_a_label_map_become_those_of_the_recipe(own_data, capsys):
    assert cli.main(["prepare", own_data("nnunet"), "data/mine"]) == 0
    assert cli.main(["plan", "data/mine", *SMALL]) == 0
    with open("configs/mine.yaml", encoding="utf-8") as file:
        recipe = yaml.safe_load(file)
    assert recipe["model"]["detector"]["init_args"]["num_classes"] == 2
    assert recipe["data"]["augment"]["init_args"]["mirror_axes"] == [0, 1]
    with pytest.raises(SystemExit) as ended:  # every key and value is one that the stage takes
        finetune.main(["--config", "configs/mine.yaml", "--print_config"])
    assert ended.value.code == 0


def test_one_scan_gives_a_recipe_that_trains_and_says_what_cannot_be_measured(own_data, tmp_path, capsys):
    assert cli.main(["prepare", own_data("instances", 1), "data/one"]) == 0
    assert cli.main(["plan", "data/one", *SMALL]) == 0
    assert "nothing can be held out" in (tmp_path / "configs" / "one.yaml").read_text(encoding="utf-8")
    finetune.main(["--config", "configs/one.yaml", *SHORT])
    assert (tmp_path / "runs" / "one" / "scratch" / "bundle" / "bundle.json").is_file()


def test_a_folder_of_masks_whose_values_are_objects_says_how_to_read_them(own_data, tmp_path, capsys):
    folder = tmp_path / "raw"
    own_data("instances")
    (folder / "instances").rename(folder / "masks")
    assert cli.main(["prepare", str(folder), "data/mine"]) == 2
    assert "say --objects instances if each value is an object of its own" in capsys.readouterr().err
    assert cli.main(["prepare", str(folder), "data/mine", "--objects", "instances"]) == 0
    assert [len(Store("data/mine").case(one).labels) for one in Store("data/mine").case_ids] == [2, 2, 2]


def test_instances_of_several_classes_are_refused(own_data, capsys):
    assert cli.main(["prepare", own_data("nnunet"), "data/mine", "--objects", "instances"]) == 2
    error = capsys.readouterr().err
    assert "--objects instances: got 2 classes (node_left, node_right), wanted one" in error
