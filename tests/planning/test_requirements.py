from __future__ import annotations

import pytest
from torch import nn

from medpretrain3d.cli import main
from medpretrain3d.errors import UserError
from medpretrain3d.loading import case_labels, multi_crop, object_view, views
from medpretrain3d.planning.memory import GIB
from medpretrain3d.planning.planned_recipe import PlannedRecipe
from medpretrain3d.planning.recipe_step import ONE_CROP, recipe_step
from medpretrain3d.planning.requirements import requirements
from medpretrain3d.planning.training_memory import Setting, TrainingMemory, training_memory

DINO = {
    "model": {
        "objective": {
            "class_path": "DINO",
            "init_args": {
                "backbone": {"class_path": "Primus", "init_args": {"preset": "XXS", "position_grid": [2, 2, 2]}},
                "num_prototypes": 32,
                "head_channels": [16],
            },
        },
        "optim": {"name": "adamw"},
    },
    "data": {"store": "none", "patch": [32, 32, 32], "batch_size": 2, "views": {"class_path": "TwoViews"}},
    "trainer": {"devices": 2, "max_steps": 1000},
}


@pytest.fixture
def recipe(tmp_path):
    import yaml

    path = tmp_path / "dino.yaml"
    path.write_text(yaml.safe_dump(DINO))
    return str(path)


def printed(capsys, *args: str) -> dict[str, str]:
    assert main(["plan", *args]) == 0
    return dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())


def test_memory_by_hand():
    network = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8))  # 40 and 72 numbers
    network[0].bias.requires_grad_(False)  # 8 of them
    adamw = training_memory(network, 1000, Setting(states=2, is_averaged=True))
    assert adamw == TrainingMemory(4 * 112, 4 * 104, 8 * 104, 4 * 112, 0, 1000)
    assert adamw.gib == 1 + (4 * (112 + 104 + 208 + 112) + 1000) / GIB
    # Of two processes each keeps half. Block 2 is gathered alone, weights and gradients; the rest stays gathered.
    shards = training_memory(network, 1000, Setting(states=1, num_shards=2), [network[1]])
    assert shards == TrainingMemory(2 * 112, 2 * 104, 2 * 104, 0, 2 * 4 * 40 + 2 * 4 * 72, 1000)


def test_a_recipe_of_pretraining_says_what_one_process_needs(recipe, capsys):
    plain = printed(capsys, "--config", recipe)
    assert plain["processes"] == "2"
    assert plain["precision"] == "bf16-mixed"
    assert plain["steps"] == "1,000"
    assert "weights" in plain["memory of each"]
    assert "gathered" not in plain["memory of each"]
    assert "with checkpointing" in plain
    saving = "--model.objective.init_args.backbone.init_args.checkpointing", "true"
    other = printed(capsys, "--config", recipe, *saving, "--trainer.strategy", "fsdp2", "--trainer.precision", "32")
    assert "gathered" in other["memory of each"]
    assert other["precision"] == "32-true"
    assert "without checkpointing" in other


def test_what_is_computed_follows_the_recipe(recipe):
    def of(**options):
        return PlannedRecipe.read([recipe], options).requirements()

    one, two = of(), of(data={"batch_size": 4}, trainer={"max_steps": 500})
    assert two.step_flop == 2 * one.step_flop
    assert two.hours("A100") == pytest.approx(one.hours("A100"))
    assert one.step_bytes == 2 * 2 * (2 * 2 * 32**3)  # two bytes, processes, samples, views
    num = sum(one_ for one_ in (one.memory.weights, one.memory.gradients)) / 4
    assert one.memory.optimizer == 2 * one.memory.gradients  # two moments of what is trained
    assert num > one.memory.weights / 4  # the teacher has weights and no gradients
    assert one.memory.gradients < one.memory.weights
    assert one.memory.activations > one.other_memory.activations  # which computes them again
    accumulated = of(trainer={"accumulate_grad_batches": 3})
    assert accumulated.step_flop == 3 * one.step_flop
    assert accumulated.memory == one.memory


RESENC = {"class_path": "ResEnc", "init_args": {"preset": "XXS"}}
LEVELS = {"class_path": "AnchorGrid", "init_args": {"sizes": [[[4, 4, 4]], [[8, 8, 8]]]}}
SMALL_DETECTORS = {
    "RetinaUNet": {"num_classes": 2, "anchors": LEVELS, "fpn_channels": 8},
    "HeatMap": {"num_classes": 2, "fpn_channels": 8, "regression": "box"},
    "DeformableDETR": {"num_classes": 2, "channels": 32, "num_queries": 4, "encoder_layers": 1, "decoder_layers": 1},
}


@pytest.mark.parametrize("name", list(SMALL_DETECTORS))
def test_a_detector_takes_as_much_in_pretraining_as_in_fine_tuning(name):
    """And in pretraining its map of labels, and an objective beside it."""
    detector = {"class_path": name, "init_args": {**SMALL_DETECTORS[name], "backbone": RESENC}}
    data = {"patch": [32, 32, 32], "batch_size": 2}

    def pretraining(**options):
        objective = {"class_path": "DetectorPretraining", "init_args": {"detector": detector, **options}}
        return recipe_step({"objective": objective}, {**data, "views": {"class_path": "ObjectView"}}).trace(
            "bf16-mixed"
        )

    alone, inside = recipe_step({"detector": detector}, data).trace("bf16-mixed"), pretraining()
    assert inside.flop == alone.flop > 0
    assert inside.activation_bytes == alone.activation_bytes + 2 * 32**3  # label maps of a byte
    beside = pretraining(beside={"class_path": "MAE", "init_args": {"backbone": RESENC}})
    assert beside.flop > inside.flop


def test_views_that_nobody_knows_are_refused():
    config = {**DINO, "data": {**DINO["data"], "views": {"class_path": "mine.FourViews"}}}
    with pytest.raises(UserError, match=r"data\.views mine\.FourViews: what a batch of it holds is not known"):
        requirements(config, "pretrain")
    classes = [one for module in (views, object_view, case_labels, multi_crop) for one in vars(module).values()]
    own = {one.__name__ for one in classes if isinstance(one, type) and issubclass(one, views.Views)}
    assert own - {"Views"} == {*ONE_CROP, "TwoViews", "MultiCrop", "VolumePairs", "GridAndTargets"} - {"None"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--memory", "1"], r"one process needs 1\.\d GiB, more than --memory 1; lower data.batch_size"),
        (["--data.batch_sice", "3"], "unknown key 'batch_sice'; did you mean 'batch_size'"),
        (["--trainer.devices", "auto"], "got devices auto, which this machine would decide; give a number"),
        (["store"], "got a recipe and a store"),
        (["--data.patch", "[32, 32, 30]"], "W is 30, must be a multiple"),
        (["--trainer.precision", "fp8"], "precision"),
    ],
)
def test_what_cannot_be_computed_is_said_in_a_line(recipe, capsys, args, message):
    import re

    assert main(["plan", "--config", recipe, *args]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert re.search(message, said)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config", "openkbp"], "openkbp may be of either stage; give --stage pretrain or --stage finetune"),
        (["--config", "openkpb_dino"], "no such file, and no recipe of pretrain has that name"),
        (["--data.batch_size", "2"], "wanted a store, a plan, or a recipe by --config"),
        (["store", "--data.batch_size", "2"], "got --data and no recipe that they change"),
    ],
)
def test_a_recipe_that_is_none_is_refused(capsys, args, message):
    assert main(["plan", *args]) == 2
    assert message in capsys.readouterr().err
