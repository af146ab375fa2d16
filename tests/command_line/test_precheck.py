from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medpretrain3d.command_line.precheck import CLASSES, precheck
from medpretrain3d.command_line.signatures import files_of_classes, signatures, trainer_options
from medpretrain3d.command_line.stages import stage_words
from medpretrain3d.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(path for path in (ROOT / "configs").glob("*/*.yaml") if path.parent.name in CLASSES)


def look(stage: str, *words: str) -> None:
    precheck(stage, stage_words(words, stage)[1:])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_recipe_passes(path):
    look(path.parent.name, "--config", str(path))


@pytest.mark.parametrize("loss", ["diou", "SmoothL1Loss", '{"class_path": "L1Loss", "init_args": {"weight": 2.0}}'])
def test_a_box_loss_is_a_word_or_a_class(loss):
    look("finetune", "--config", "smoke", f"--model.detector.init_args.box_loss={loss}")


def test_a_word_that_is_neither_is_said():
    with pytest.raises(UserError, match="unknown class 'gio' of type BoxLoss"):
        look("finetune", "--config", "smoke", "--model.detector.init_args.box_loss=gio")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--model.optim.warmup_step 3", "unknown key 'warmup_step'; did you mean 'warmup_steps'?"),
        ("--model.optim.warmup-step=3", "unknown key 'warmup_step'; did you mean 'warmup_steps'?"),
        ("--optim.lr 3", "unknown key 'optim.lr'; did you mean 'model.optim.lr'?"),
        ("--modl.optim.lr 3", "unknown key 'modl'; did you mean 'model'?"),
        ("--foo.bar 3", "unknown key 'foo'"),
        ("--trainer.max_stepz 3", "unknown key 'max_stepz'; did you mean 'max_steps'?"),
        ("--trainer.max_steps abc", "trainer: got max_steps 'abc', wanted a whole number >= 1"),
        ("--data.batch_size 0", "PretrainData: got batch_size 0, wanted a whole number >= 1"),
        ("--data.batch_size abc", "PretrainData: got batch_size 'abc'"),
        ("--data.patch [16,16]", "got patch [16, 16], wanted a list of 3"),
        ("--model.objective MEA", "model.objective: unknown class 'MEA' of type Objective; did you mean 'MAE'?"),
        ("--model.objective.class_path medpretrain3d.objectives.MEA", "did you mean 'MAE'?"),
        ("--model.objective RetinaNet", "'RetinaNet' is not of type Objective"),
        ("--model.objective.init_args.mask_ration 0.3", "did you mean 'mask_ratio'?"),
        ("--model.objective.mask_ratio 3", "MAE: got mask_ratio 3"),
        ("--model.objective.backbone.class_path ResEncc", "did you mean 'ResEnc'?"),
        ("--model.objective.init_args.backbone.init_args.preset XXXS", "ResEnc: got preset 'XXXS', wanted one of XXS"),
        ("--run.wandb on", "got wandb True, wanted one of auto"),
        ("--device cuda", "device: got 'cuda', wanted options of it, such as --device.tf32"),
        ("--device.tf32 yes", "DeviceConfig: got tf32"),
        (
            "--trainer.precision 16-true",
            "got precision '16-true', wanted one of 32-true, bf16-mixed, 16-mixed, bf16-true, 32,",
        ),
        ("--data.views TwoViews --data.views.init_args.x 1", "unknown key 'x'"),
        (
            "--trainer.callbacks+ EMAWeightAveragin",
            "trainer.callbacks: unknown class 'EMAWeightAveragin' of type Callback; did you mean 'EMAWeightAveraging'?",
        ),
        ("--trainer.callbacks.class_path EarlyStoping", "did you mean 'EarlyStopping'?"),
        ("--trainer.callbacks=[Probe]", "unknown class 'Probe' of type Callback; did you mean 'Probes'?"),
        ("--trainer.callbacks+=MAE", "unknown class 'MAE' of type Callback; there are "),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words, told):
    with pytest.raises(UserError) as error:
        look("pretrain", "--config", "smoke", *words.split())
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ("trainer: {callbacks: [{class_path: ModelChekpoint}]}", "did you mean 'ModelCheckpoint'?"),
        ("model: {optim: {learning_rate: 1}}", "unknown key 'learning_rate'"),
        ("optim: {lr: 1}", "unknown key 'optim.lr'; did you mean 'model.optim.lr'?"),
        ("model.optim.lr: 1", "got the key 'model.optim.lr', wanted 'model: {optim: {lr: ...}}': keys with dots"),
        ("model: {optim.lr: 1}", "got the key 'optim.lr', wanted 'optim: {lr: ...}'"),
        ("model: {detector: {class_path: RetinaNett}}", "did you mean 'RetinaNet'?"),
        ("model: {detector: {class_path: MAE}}", "'MAE' is not of type Detector"),
        ("model: {detector: {class_path: RetinaNet, init_args: {backbone: 3}}}", "RetinaNet: got backbone 3"),
        ("data: {batch_size: many}", "got batch_size 'many'"),
        ("trainer: {max_step: 3}", "did you mean 'max_steps'?"),
        ("1: 2", "unknown key '1'"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_said_with_its_name(tmp_path, recipe, told):
    path = tmp_path / "mine.yaml"
    path.write_text(recipe)
    with pytest.raises(UserError) as error:
        look("finetune", "--config", str(path))
    assert told in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        "--data.augment null --data.window.class_path Window --data.window.low_hu -3",
        "--model.objective my_package.Objective --model.objective.init_args.anything 3",
        "--model.objective Mine --plugins my_package",
        "--trainer.callbacks+=Probes --trainer.callbacks.num_crops 3 --trainer.devices 2",
        "--trainer.callbacks+ EMAWeightAveraging --trainer.callbacks.decay 0.9 --trainer.callbacks+ theirs.Callback",
        "--trainer.callbacks=[pretrain.probes.Probes,my_callbacks.yaml] --trainer.callbacks null",
        "--run.name 2024 --data.store [a,b] --seed_everything 3",
        "--model.objective.help",
        "--model.objective.class_path medpretrain3d.objectives.SimCLR --model.objective.temperature 0.5",
    ],
)
def test_what_is_right_or_cannot_be_judged_passes(words):
    look("pretrain", "--config", "smoke", *words.split())


def test_a_recipe_that_names_plugins_may_name_their_classes(tmp_path):
    (tmp_path / "recipe.yaml").write_text("{model: {objective: {class_path: Theirs}}, plugins: [theirs]}")
    look("pretrain", "--config", str(tmp_path / "recipe.yaml"))
    look("pretrain", "--plugins", "theirs", "--model.objective", "Theirs")
    (tmp_path / "recipe.yaml").write_text("model: {objective: {class_path: Theirs}}")
    with pytest.raises(UserError, match="unknown class 'Theirs'"):
        look("pretrain", "--config", str(tmp_path / "recipe.yaml"))


def test_signatures_are_those_of_the_classes():
    for stage in CLASSES:
        importlib.import_module(f"{stage}.cli")
    from medpretrain3d.configurable import Configurable
    from medpretrain3d.values import constructor

    def below(cls: type) -> set[type]:
        return {cls}.union(*(below(child) for child in type.__subclasses__(cls)))

    parts = [cls for cls in below(Configurable) if cls.__module__.partition(".")[0] in ("medpretrain3d", "pretrain")]
    parts = [cls for cls in parts if cls.__name__ in files_of_classes() and cls is not Configurable]
    assert len(parts) > 40
    for cls in parts:
        (signature,) = signatures(cls.__name__)
        kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        names = [name for name, one in list(constructor(cls).parameters.items())[1:] if one.kind not in kinds]
        assert set(signature.parameters) == set(names), cls
        assert None not in signature.parameters.values(), f"the types of {cls.__name__} are not all known"
    assert {"max_steps", "devices", "callbacks"} < trainer_options()


def test_a_class_that_derives_from_another_of_its_name_takes_what_that_takes():
    (signature,) = signatures("Conv3d")  # of `torch.nn.Conv3d`
    assert signature.is_open
    assert signature.bases == ()


def test_a_wrong_configuration_costs_no_import_of_torch(tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "pretrain", "fit", "--config", "smoke", "--data.stor", "x"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert errors == ["error: configuration: unknown key 'stor'; did you mean 'store'? (--data.stor x)"]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert imported & {"torch", "lightning", "torchvision", "scipy"} == set()
