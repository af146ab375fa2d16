"""Every command that writes keeps others out, removes what a killed call of it left, and nothing of anyone else."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

from medpretrain3d.cli import COMMANDS, main

READING = {"completion", "datasets", "inspect", "backbones", "doctor", "cache"}  # which locks each copy that it removes
LIBRARY = {"prepare", "phantom"}
"""Their functions lock, since programs call them too."""
HOLD = """
import sys
from pathlib import Path
from medpretrain3d.atomic import locked, locked_folder
kind, place, *name = sys.argv[1:]
with {"folder": locked_folder, "file": locked}[kind](Path(place), *name):
    print("held", flush=True)
    sys.stdin.read()
"""
WRITING = {
    # command: arguments with {place}, what is locked, and an unfinished thing that a killed call leaves
    "predict": ("bundle scan.nii.gz -o {place}", "folder", "{place}/cases/.a.json.01234567.unfinished"),
    "test": ("bundle data -o {place}", "folder", "{place}/.targets.json.01234567.unfinished"),
    "cross-validate": ("runs -o {place}", "folder", "{place}/.metrics.json.01234567.unfinished"),
    "rescore": ("cv --store store --init-from e -o {place}", "folder", "{place}/.metrics.json.01234567.unfinished"),
    "restrict": (
        "--predictions a --targets b --region r --margin-mm 5 -o {place}",
        "file",
        ".place.01234567.unfinished",
    ),
    "phantom": ("{place} --cases 2 --spacing-mm 10", "folder", "{place}/imagesTr/.a.nii.gz.01234567.unfinished"),
    "prepare": ("raw {place}", "folder", None),
    "pack": ("store {place}", "folder", "{place}/cases/.a.01234567.unfinished"),
    "pseudo": ("store {place}", "folder", "{place}/cases/.a.01234567.unfinished"),
    "split": ("{place}", "folder", "{place}/.splits.json.01234567.unfinished"),
    "tune": ("{place}", "file", "{place}/.bundle.json.01234567.unfinished"),
    "export": ("encoder -o {place}", "file", ".place.01234567.unfinished/encoder.json"),
    "export-detector": ("bundle -o {place}", "file", ".place.01234567.unfinished/network.onnx"),
    "evaluate": ("--predictions a.json -o {place}", "file", ".place.01234567.unfinished"),
    "compare": ("a.json b.json --targets c.json -o {place}", "file", ".place.01234567.unfinished"),
    "targets": ("store -o {place}", "file", ".place.01234567.unfinished"),
    "plan": ("store -o {place}", "file", ".place.01234567.unfinished"),
    "probe": ("store encoder -o {place}", "file", ".place.01234567.unfinished"),
    "report": ("runs -o {place}", "file", ".place.01234567.unfinished"),
    "study": ("report study.yaml", "folder .study.lock", None),
    "sweep": ("openkbp --root . --name {place}", "folder", None),
    "workspace": ("--entity team --project mine -o {place}", "file", ".place.01234567.unfinished"),
}


def test_a_command_either_reads_only_or_locks_what_it_writes():
    modules = {name: importlib.import_module(f"medpretrain3d.commands.{name.replace('-', '_')}") for name in COMMANDS}
    assert {name for name, module in modules.items() if not hasattr(module, "lock")} == READING | LIBRARY
    assert set(WRITING) == set(COMMANDS) - READING


@pytest.mark.parametrize("command", WRITING)
def test_a_second_call_is_refused_in_one_line_and_the_next_removes_what_a_killed_one_left(
    command, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text("name: place\nroot: .\ndata: {d: demo}\narms: {scratch: {}}\n")
    arguments, kind, left = WRITING[command]
    if kind.startswith("folder") or command == "tune":
        (tmp_path / "place").mkdir()
    own, _, name = kind.partition(" ")
    words = [command, *arguments.format(place="place").split()]
    holder = [sys.executable, "-c", HOLD, own, str(tmp_path / "place"), *name.split()]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: place: process" if "study" not in command else "error: ")
        assert f"process {first.pid} is at work here" in error
        assert error.count("\n") == 1
        first.kill()
    if left is not None:
        unfinished = tmp_path / left.format(place="place")
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text("half")
    main(words)  # ends well or not, for want of a bundle
    hidden = [path.name for path in tmp_path.rglob(".*") if path.name.endswith((".unfinished", ".lock"))]
    assert hidden == []


def test_shards_work_side_by_side_and_one_shard_is_prepared_once(tmp_path, capsys):
    from medpretrain3d.atomic import locked_folder

    (tmp_path / "raw").mkdir()
    with locked_folder(tmp_path / "store", ".shard-1-of-2.lock", clean=False):
        assert main(["prepare", str(tmp_path / "raw"), str(tmp_path / "store"), "--shard", "1/2"]) == 2
        assert "is at work here" in capsys.readouterr().err
        assert main(["prepare", str(tmp_path / "raw"), str(tmp_path / "store"), "--shard", "2/2"]) == 2
        assert "is at work here" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["run.json", "store.json", "bundle.json", "encoder.json", "dataset.json"])
def test_predict_does_not_mix_its_results_with_another_artefact(tmp_path, capsys, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("{}")
    assert main(["predict", "bundle", "scan.nii.gz", "-o", str(out)]) == 2
    assert f"holds a {name}, so it is no folder of predictions" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == [name]


def test_predict_does_not_overwrite_predictions_of_another_program(tmp_path, capsys):
    (tmp_path / "predictions.json").write_text(json.dumps({"boxes": []}))
    assert main(["predict", "bundle", "scan.nii.gz", "-o", str(tmp_path)]) == 2
    assert "is not of this program; choose another place" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["export", "export-detector", "phantom", "prepare"])
def test_a_folder_of_others_stays_as_it_is(tmp_path, capsys, command):
    place = tmp_path / "photos"
    place.mkdir()
    (place / "holiday.jpg").write_text("x")
    raw = tmp_path / "raw"
    assert main(["phantom", str(raw), "--cases", "1", "--spacing-mm", "10"]) == 0
    arguments = {
        "export": ["encoder", "-o", str(place)],
        "export-detector": ["bundle", "-o", str(place)],
        "phantom": [str(place), "--cases", "1"],
        "prepare": [str(raw), str(place)],
    }[command]
    assert main([command, *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert {path.name: path.read_text() for path in place.iterdir()} == {"holiday.jpg": "x"}


def test_a_case_folder_of_others_is_neither_replaced_nor_removed(tmp_path, capsys):
    raw, store = tmp_path / "raw", tmp_path / "store"
    assert main(["phantom", str(raw), "--cases", "1", "--spacing-mm", "10"]) == 0
    foreign = store / "cases" / "phantom_0000"
    foreign.mkdir(parents=True)
    (foreign / "holiday.jpg").write_text("x")
    assert main(["prepare", str(raw), str(store)]) == 2
    assert "holds other files and no" in capsys.readouterr().err
    next((raw / "imagesTr").iterdir()).write_bytes(b"no scan")
    main(["prepare", str(raw), str(store)])
    assert (foreign / "holiday.jpg").read_text() == "x"
