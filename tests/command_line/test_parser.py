from __future__ import annotations

from pathlib import Path

import pytest

from medpretrain3d import cli
from medpretrain3d.command_line.parser import option_values, respelled
from medpretrain3d.command_line.stages import stage_words


def test_options_are_known_in_both_spellings():
    known = ["--batch-size", "--data.num_workers", "--print_config"]
    words = ["--batch_size=2_0-1", "--data.num-workers", "a_b", "--print-config", "--model.objective.mask-ratio", "1"]
    spelled = ["--batch-size=2_0-1", "--data.num_workers", "a_b", "--print_config", "--model.objective.mask_ratio", "1"]
    assert respelled(words, known) == spelled
    assert respelled(["--", "--batch_size"], known) == ["--", "--batch_size"]
    assert respelled(["-o", "-x_y", "--what_ever-is"], known) == ["-o", "-x_y", "--what_ever-is"]


def test_of_an_option_given_twice_the_last_value_counts():
    words = ["fit", "--a", "1", "--run.wandb=x=y", "--flag", "--a", "2"]
    assert option_values(words) == {"a": "2", "run.wandb": "x=y", "flag": "--a"}


def test_the_home_folder_is_known_where_a_shell_leaves_its_sign(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.command_parser("export").parse_args(["encoder", "--output=~/out"]).output == tmp_path / "out"
    several = cli.command_parser("report").parse_args(["~/a", "b", "~", "~x/c", "-o", "d/~/e"])
    assert several.folders == [tmp_path / "a", Path("b"), tmp_path, Path("~x/c")]
    assert several.out == Path("d/~/e")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_of_every_command_has_one_name_in_two_spellings(name):
    parser = cli.command_parser(name)
    keys = [option.replace("_", "-") for option in parser._option_string_actions]
    assert len(set(keys)) == len(keys)
    assert all("_" not in option for option in parser._option_string_actions if not option.startswith("--print_"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["predictt"], "unknown command 'predictt'; did you mean 'predict'?"),
        (["pretrian", "--config", "x"], "did you mean 'pretrain'?"),
        (["--versio"], "unknown option '--versio'; did you mean '--version'?"),
        (["predict", "b", "s", "-o", "x", "--batchsize", "3"], "did you mean '--batch-size'?"),
        (["predict", "b", "s", "-o", "x", "--batch_sise=3"], "did you mean '--batch-size'?"),
        (["predict", "b", "s", "-o", "x", "--merge", "nmss"], "did you mean 'nms'?"),
        (["predict", "b", "s", "-o", "x", "--over", "0.5"], "unknown option '--over'"),  # may be another one's name
        (["evaluate", "--protocol", "luna", "--predictions", "x"], "did you mean 'luna16'?"),
        (["doctor", "now"], "got 'now' more than it takes"),
        (["predict"], "the following arguments are required"),
        (["prepare", "a", "b", "--min-voxels", "1.5"], "invalid int value"),
    ],
)
def test_a_wrong_word_is_answered_with_the_nearest_in_one_line(words, told, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert told in printed
    assert printed.startswith("error: medpretrain3d")
    assert printed.count("\n") == 1


def test_commands_are_known_in_both_spellings_too(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["export_detector", "--help"])
    assert ended.value.code == 0
    assert "medpretrain3d export-detector" in capsys.readouterr().out


def test_the_word_fit_may_be_left_out():
    assert stage_words(["fit", "--x", "1"], "pretrain") == stage_words(["--x", "1"], "pretrain") == ["fit", "--x", "1"]
    assert stage_words([], "pretrain") == ["fit"]
