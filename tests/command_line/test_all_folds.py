"""`finetune --folds all` is a cross-validation of what was typed."""

from __future__ import annotations

import pytest
import yaml

from medpretrain3d import cli
from medpretrain3d.command_line.all_folds import as_cross_validation
from medpretrain3d.command_line.composition import composed, recipe_layers
from medpretrain3d.errors import UserError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.yaml").write_text("data: {store: data/mine, batch_size: 2}\nrun: {root: out}\n")


def test_a_recipe_as_it_is(tmp_path):
    assert as_cross_validation(["fit", "--config", "configs/mine.yaml", "--folds", "all"]) == [
        *("cross-validate", "--config", "configs/mine.yaml", "-o", "out/mine_folds/result"),
    ]


def test_what_was_typed_is_kept_in_a_recipe_and_passed_on(tmp_path):
    words = ["--config=configs/mine.yaml", "--folds=all", "--trainer.max_steps", "2", "--run.root=runs", "--cores", "2"]
    words += ["--model.init_from", "enc", "--seed-everything", "3", "--data.augment", "{class_path: SpatialAugment}"]
    found = as_cross_validation(words)
    recipe = "runs/mine_folds/options/mine.yaml"
    assert found == [
        *("cross-validate", "--config", recipe, "--init-from", "enc", "--seed", "3"),
        *("-o", "runs/mine_folds/result", "--cores", "2"),
    ]
    layers = recipe_layers(tmp_path / recipe, "finetune")
    assert composed(layers) == {
        "data": {"store": "data/mine", "batch_size": 2, "augment": {"class_path": "SpatialAugment"}},
        "run": {"root": "runs"},
        "trainer": {"max_steps": 2},
    }
    assert yaml.safe_load((tmp_path / recipe).read_text())["base"] == ["../../../configs/mine.yaml"]


def test_what_was_typed_lies_on_the_named_recipe_where_runs_is_a_link_to_another_disk(tmp_path, monkeypatch):
    home, scratch = tmp_path / "home" / "project", tmp_path / "scratch" / "project"
    for folder, batch_size in ((home, 2), (scratch, 7)):  # on the other disk an older copy of the project
        (folder / "configs").mkdir(parents=True)
        (folder / "configs" / "lower.yaml").write_text(f"data: {{store: data/mine, batch_size: {batch_size}}}\n")
    (home / "shared").mkdir()
    (home / "shared" / "theirs.yaml").write_text("base: lower.yaml\n")
    (home / "configs" / "mine.yaml").symlink_to("../shared/theirs.yaml")  # its base lies beside its name
    (scratch / "runs").mkdir()
    (home / "runs").symlink_to(scratch / "runs")
    monkeypatch.chdir(home)
    words = as_cross_validation(["--config", "configs/mine.yaml", "--folds", "all", "--trainer.max_steps", "2"])
    assert words[2] == "runs/mine_folds/options/mine.yaml"
    assert composed(recipe_layers(home / words[2], "finetune")) == {
        "data": {"store": "data/mine", "batch_size": 2},
        "trainer": {"max_steps": 2},
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--folds", "all"], "wanted --config RECIPE"),
        (
            ["--folds", "3", "--config", "configs/mine.yaml"],
            "--folds 3: wanted all; one fold is trained with --data.fold 3",
        ),
        (["--folds", "all", "--config", "configs/mine.yaml", "--data.fold", "1"], "each fold gets its own"),
        (["--folds", "all", "--config", "configs/mine.yaml", "--run.name", "x"], "a study names its runs"),
        (["--folds", "all", "--config", "configs/mine.yaml", "--run.group", "x"], "a study names the group"),
        (["--folds", "all", "--config", "configs/mine.yaml", "--run.arm", "x"], "a study names its arms"),
        (["--folds", "all", "--config", "configs/mine.yaml", "--run.restart", "true"], "remove out/mine_folds, and"),
        (["--folds", "all", "--config", "configs/mine.yaml", "--data.test_on=test"], "tested on what it holds out"),
        (["--folds", "all", "--config", "configs/mine.yaml", "--print_config"], "prints no configuration"),
        (["--folds", "all", "--config", "configs/none.yaml"], "configs/none.yaml"),
        (["--folds", "all", "--config", "configs/mine.yaml", "--data.bach_size", "1"], "did you mean 'batch_size'"),
        (["--config", "configs/mine.yaml", "--folds"], "--folds: wanted a value"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        as_cross_validation(words)


def test_what_says_the_same_as_folds_do_is_no_option_of_its_own():
    words = ["--folds", "all", "--config", "configs/mine.yaml", "--data.test_on", "held_out", "--run.restart", "false"]
    assert as_cross_validation(words)[:3] == ["cross-validate", "--config", "configs/mine.yaml"]


def test_the_program_takes_that_way(monkeypatch, capsys):
    from medpretrain3d.commands import cross_validate

    seen = []
    monkeypatch.setattr(cross_validate, "run", lambda args: seen.append((args.config, str(args.out))) or 0)
    monkeypatch.delattr(cross_validate, "lock")
    assert cli.main(["finetune", "--config", "configs/mine.yaml", "--folds", "all"]) == 0
    assert seen == [("configs/mine.yaml", "out/mine_folds/result")]
    assert cli.main(["finetune", "--config", "configs/mine.yaml", "--folds", "two"]) == 2
    assert capsys.readouterr().err == "error: --folds two: wanted all; one fold is trained with --data.fold two\n"
    with pytest.raises(SystemExit, match="2"):
        cli.main(["finetune", "--config", "configs/mine.yaml", "--folds", "all", "--core", "2"])
    assert "unknown option '--core'; did you mean '--cores'?" in capsys.readouterr().err
