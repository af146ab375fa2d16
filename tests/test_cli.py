from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from medpretrain3d import cli
from medpretrain3d.backbones import ResEnc, save_encoder


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_listed_is_there_and_explains_itself(name, capsys):
    module = importlib.import_module(f"medpretrain3d.commands.{name.replace('-', '_')}")
    assert module.__doc__
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    assert name in capsys.readouterr().out


def test_help_lists_the_commands_and_unknown_ones_are_refused(capsys):
    with pytest.raises(SystemExit):
        cli.main([])
    printed = capsys.readouterr().out
    assert all(name in printed for name in cli.COMMANDS)
    with pytest.raises(SystemExit) as ended:
        cli.main(["predictt"])
    assert ended.value.code == 2


def test_bad_input_is_one_line_and_exit_code_2(capsys, tmp_path):
    assert cli.main(["targets", str(tmp_path / "none"), "-o", str(tmp_path / "t.json")]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    assert not (tmp_path / "t.json").exists()


def test_an_interruption_is_said_and_has_its_own_exit_code(monkeypatch, capsys):
    from medpretrain3d.commands import inspect

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(inspect, "run", interrupted)
    assert cli.main(["inspect", "x"]) == 130
    assert "call again to go on" in capsys.readouterr().err


def test_inspect_tells_what_a_folder_holds(tmp_path, capsys):
    save_encoder(tmp_path / "encoder", ResEnc("XXS"), {"pretraining": {"steps": 7}})
    assert cli.main(["inspect", str(tmp_path / "encoder")]) == 0
    printed = capsys.readouterr().out
    assert "encoder file" in printed
    assert '"preset": "XXS"' in printed
    assert '"steps": 7' in printed
    (tmp_path / "empty").mkdir()
    assert cli.main(["inspect", str(tmp_path / "empty")]) == 2
    assert "no checkpoint here" in capsys.readouterr().err


def test_the_command_runs_as_a_program():
    done = subprocess.run([sys.executable, "-m", "medpretrain3d.cli", "--version"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.strip() == importlib.import_module("medpretrain3d").__version__
