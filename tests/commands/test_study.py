from __future__ import annotations

import re

import pytest

from medpretrain3d.cli import main
from medpretrain3d.study import workflow


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["smoke"],
            "got 'smoke', wanted plan, .*; did you mean `medpretrain3d study run smoke`",
        ),
        (["plam", "smoke"], "got 'plam', wanted plan, run, status, report, sync and a document; did you mean 'plan'?"),
        (["plan"], "study plan: wanted a document, as in medpretrain3d study plan demo"),
        (["plan", "smok"], "smok: no such file, and no recipe of study has that name; did you mean 'smoke'?"),
        (["plan", "smoke", "--set", "seed=3"], "KEY one of name, root.*did you mean 'seeds'?"),
        (["plan", "smoke", "--set", "seeds=[1"], "--set seeds=\\[1: its value is no YAML"),
        (["plan", "smoke", "--set", "seeds=-1"], "smoke.yaml: seeds: got -1"),
        (["run", "smoke", "--executor", "slrm"], "--executor slrm: its plugin is not installed; pip install snakemake"),
        (["report", "smoke"], "no run of this study is done"),
    ],
)
def test_a_mistake_is_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["study", *words]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_without_the_engine_it_is_said_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workflow, "_is_installed", lambda name: False)
    assert main(["study", "run", "smoke"]) == 2
    assert "pip install 'medpretrain3d[study]'" in capsys.readouterr().err


def test_a_plan_of_data_that_are_not_there_lists_jobs_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["study", "plan", "smoke", "--set", "seeds=3", "--set", "delta=5e-2"]) == 0  # numbers as in recipes
    printed = capsys.readouterr().out
    assert "2 arms x 1 data set x 1 detector x 1 label budget x 3 seeds" in printed
    assert re.search("finetune mae, phantom, labels all, seed 2 +unknown", printed)
    assert "not prepared yet, so jobs on them are not final: runs/smoke/phantom_6mm" in printed
    assert "detectable difference is unknown" in printed
    assert main(["study", "status", "smoke"]) == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
