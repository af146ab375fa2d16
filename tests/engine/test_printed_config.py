from __future__ import annotations

import pytest
import yaml

from medpretrain3d.plugins import loaded_plugins
from pretrain import __main__ as program


def printed(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        program.main(["fit", *words])
    assert ended.value.code == 0
    return str(capsys.readouterr().out)


def test_print_config_shows_what_will_be_used_and_is_a_recipe(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    text = printed(capsys, "--config", "smoke", "--print-config")
    trainer = yaml.safe_load(text)["trainer"]
    assert (trainer["precision"], trainer["devices"], trainer["accelerator"]) == ("32-true", 1, "cpu")
    assert trainer["use_distributed_sampler"] is False
    assert yaml.safe_load(text)["device"] == {"tf32": "convolutions", "channels_last": False, "compile": None}
    assert trainer["default_root_dir"] == "runs/smoke/mae"
    for added in ("Checkpoints", "Divergence", "Previews", "CurveLogger", "PositionBatches", "CheckpointFiles"):
        assert added in text.partition("# added by the stage:")[2]
    assert list(tmp_path.iterdir()) == [], "nothing is written"
    (tmp_path / "printed.yaml").write_text(text)
    assert printed(capsys, "--config", "printed.yaml", "--print_config") == text
    assert loaded_plugins() == []


def test_what_was_given_stays(capsys):
    text = printed(capsys, "--config", "smoke", "--trainer.precision", "bf16-mixed", "--print_config")
    assert yaml.safe_load(text)["trainer"]["precision"] == "bf16-mixed"


@pytest.mark.parametrize(
    ("words", "environment", "expected"),
    [
        (["--run.wandb", "disabled"], "offline", ""),
        (["--run.wandb=disabled"], "online", ""),
        (["--run.wandb", "offline"], "disabled", ", wandb, offline"),
        (["--run.wandb=online"], "offline", ", wandb, online"),
        (['--run={"wandb": "online"}'], "offline", ", wandb, online"),
        (["--config", "{run: {wandb: disabled}}"], "offline", ""),
        (["--config", "{run: {wandb: online}}"], "offline", ", wandb, offline"),
        (["--run.wandb", "auto"], "disabled", ""),
        (["--config", "{run: {wandb: auto}}"], "offline", ", wandb, offline"),
        (["--config", "{run: {wandb: auto}}"], "", ", wandb, offline"),
    ],
)
def test_what_is_typed_about_tracking_wins_over_the_environment(capsys, monkeypatch, words, environment, expected):
    monkeypatch.setenv("WANDB_MODE", environment)
    for name in ("WANDB_DISABLED", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    text = printed(capsys, "--config", "smoke", *words, "--print_config")
    assert f"#   loggers: CurveLogger (metrics.csv){expected}\n" in text


def test_all_options_of_the_trainer_have_a_help_of_their_own(capsys):
    text = printed(capsys, "--trainer.help")
    assert "--trainer.limit_val_batches" in text
    assert "--data" not in text


def test_what_an_encoder_will_decide_that_is_not_there_yet_is_said(capsys, monkeypatch, tmp_path):
    from finetune import __main__ as finetune

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        finetune.main(["--config", "luna16", "--model.init_from", "runs/none/encoder", "--print_config"])
    assert ended.value.code == 0
    assert "# not known yet: runs/none/encoder: no such file" in capsys.readouterr().out


@pytest.mark.parametrize(("typed", "name"), [([], "abc123"), (["--run.name", "mine"], "mine")])
def test_a_run_of_a_sweep_is_named_by_its_agent_unless_a_name_is_typed(monkeypatch, capsys, typed, name):
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    run = yaml.safe_load(printed(capsys, "--config", "smoke", *typed, "--print_config"))["run"]
    assert (run["name"], run["group"]) == (name, "sweep_s1")


@pytest.mark.parametrize(
    "words",
    [
        ("--model.detector.init_args.auxiliary", "ContrastiveDenoising"),
        ("--model.detector.init_args.auxiliary.class_path", "ContrastiveDenoising"),
        ("--config", "changed.yaml"),
    ],
)
def test_what_takes_the_place_of_a_recipes_part_has_its_own_defaults(words, capsys, tmp_path, monkeypatch):
    """Those of `Denoising`, which the recipe names without arguments, were given to what replaced it."""
    from finetune import __main__ as finetuning

    monkeypatch.chdir(tmp_path)
    change = {"model": {"detector": {"init_args": {"auxiliary": {"class_path": "ContrastiveDenoising"}}}}}
    (tmp_path / "changed.yaml").write_text(yaml.safe_dump(change))
    with pytest.raises(SystemExit):
        finetuning.main(["fit", "--config", "openkbp_detr", *words, "--print_config"])
    auxiliary = yaml.safe_load(capsys.readouterr().out)["model"]["detector"]["init_args"]["auxiliary"]
    assert auxiliary["class_path"].endswith(".ContrastiveDenoising")
    assert (auxiliary["init_args"]["groups"], auxiliary["init_args"]["label_noise"]) == (None, 0.25)
