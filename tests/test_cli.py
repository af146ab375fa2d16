from __future__ import annotations

import importlib
import json
import os
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


def without_reader(words: list[str], to_stderr: bool = False, python: tuple[str, ...] = ("-u",)) -> tuple[int, str]:
    """Return exit code and standard error of a program whose output nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, *python, "-m", "medpretrain3d", *words]
    try:
        done = subprocess.run(command, stdout=writer, stderr=writer if to_stderr else subprocess.PIPE, text=True)
    finally:
        os.close(writer)
    return done.returncode, done.stderr or ""


@pytest.mark.parametrize("python", [("-u",), ()])  # said at once, or at the end
def test_where_nobody_reads_any_more_a_program_ends_without_a_word(python):
    assert without_reader(["datasets"], python=python) == (141, "")
    assert without_reader(["targets", "--help"], python=python)[1] == ""


def test_an_error_that_nobody_reads_ends_as_well(tmp_path):
    assert without_reader(["targets", str(tmp_path), "-o", str(tmp_path / "t.json")], to_stderr=True)[0] == 141


def test_files_are_written_before_what_nobody_reads_is_printed(tmp_path):
    entry = {"case": "a", "boxes": [[0, 0, 0, 4, 4, 4]], "labels": [0]}
    for name, key, columns in (("found", "predictions", {"scores": [0.5]}), ("wanted", "targets", {})):
        document = {"classes": ["nodule"], "frame": "lps_mm", key: [{**entry, **columns}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    words = ["evaluate", "--predictions", str(tmp_path / "found.json"), "--targets", str(tmp_path / "wanted.json")]
    assert without_reader([*words, "-o", str(tmp_path / "out.json"), "--plots", str(tmp_path / "plots")]) == (141, "")
    assert (tmp_path / "out.json").is_file()
    assert (tmp_path / "plots" / "froc.png").is_file()
