"""A sweep without a server: trials are runs of the stages as they are."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from medpretrain3d import cli
from medpretrain3d.engine.run import RunFile
from medpretrain3d.run_metadata import RunMetadata
from medpretrain3d.study import sweep as module
from medpretrain3d.study.sweep_file import read_sweep

SWEEP = {
    "program": "medpretrain3d",
    "method": "random",
    "metric": {"name": "val/mAP", "goal": "maximize"},
    "parameters": {"model.optim.lr": {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1}},
    "command": ["${env}", "medpretrain3d", "finetune", "--config", "finetune.yaml", "${args}"],
}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Command lines of the trials; each is over at once and scores the more, the nearer its rate is to 0.01."""
    monkeypatch.chdir(tmp_path)
    found = SimpleNamespace(words=[], codes={})

    def run(words, log):
        options = dict(
            zip(words[words.index("--run.root") :: 2], words[words.index("--run.root") + 1 :: 2], strict=True)
        )
        rate = float(next(word for word in words if word.startswith("--model.optim.lr=")).partition("=")[2])
        found.words.append([rate, options["--run.name"]])
        if code := found.codes.pop(options["--run.name"], 0):
            log.write(b"error: out of memory\n")
            return code
        folder = Path(options["--run.root"], options["--run.group"], options["--run.name"])
        RunFile(folder).update(RunMetadata(stage="finetune", finished=True))
        (folder / "metrics.csv").write_text(f"step,val/mAP\n1,0.9\n2,{-abs(math.log10(rate) + 2)}\n")
        return 0

    monkeypatch.setattr(module, "run_program", run)
    return found


def sweep(*words, **changes):
    Path("s.yaml").write_text(yaml.safe_dump({**SWEEP, **changes}))
    return cli.main(["sweep", "s.yaml", *words])


def rates(runs):
    return [rate for rate, _ in runs.words]


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_the_best_trial_is_named_and_the_same_seed_draws_the_same(runs, capsys, method):
    assert sweep("--trials", "4", method=method) == 0
    first = rates(runs)
    assert len(set(first)) == 4
    assert all(0.001 <= rate <= 0.1 for rate in first)
    best = min(first, key=lambda rate: abs(math.log10(rate) + 2))
    assert f"best of 4 trials: trial_{first.index(best):04d}" in (printed := capsys.readouterr().out)
    assert f"--model.optim.lr={best}" in printed
    assert sweep("--trials", "4", "--name", "again", method=method) == 0
    assert rates(runs)[4:] == first
    assert sweep("--trials", "4", "--name", "other", "--seed", "7", method=method) == 0
    assert not set(rates(runs)[8:]) & set(first)


def test_a_sweep_goes_on_where_it_ended_and_runs_nothing_twice(runs):
    assert sweep("--trials", "3") == 0
    assert sweep("--trials", "5") == 0
    assert [name for _, name in runs.words] == [f"trial_{number:04d}" for number in range(5)]
    assert sweep("--trials", "5", "--name", "whole") == 0
    assert rates(runs)[5:] == rates(runs)[:5]


def test_an_interrupted_trial_goes_on_with_its_options(runs):
    runs.codes["trial_0001"] = 143
    assert sweep("--trials", "3") == 143
    assert sweep("--trials", "3") == 0
    assert [name for _, name in runs.words] == ["trial_0000", "trial_0001", "trial_0001", "trial_0002"]
    assert rates(runs)[1] == rates(runs)[2]


def test_a_trial_that_fails_is_left_behind_and_bad_input_ends_all(runs, capsys):
    runs.codes["trial_0000"] = 1
    assert sweep("--trials", "2") == 1
    assert "trial_0000: failed with exit code 1: error: out of memory" in capsys.readouterr().out
    runs.codes["trial_0002"] = 2
    assert sweep("--trials", "9") == 2
    assert "trial_0002: out of memory" in capsys.readouterr().err


def test_a_trial_that_ended_by_bad_input_is_tried_again_and_others_are_not_kept_waiting(runs, capsys):
    rate = {"model.optim.lr": {"values": [0.001, 0.01, 0.1]}}
    runs.codes["trial_0001"] = 2
    assert sweep(method="grid", parameters=rate) == 2
    runs.codes["trial_0001"] = 2  # not mended
    assert sweep(method="grid", parameters=rate) == 1
    assert "trial_0001: out of memory (runs/s/trial_0001.log), as before; other trials go on" in capsys.readouterr().out
    assert [name for _, name in runs.words] == ["trial_0000", "trial_0001", "trial_0001", "trial_0002"]
    assert sweep(method="grid", parameters=rate) == 0  # mended
    assert [name for _, name in runs.words[4:]] == ["trial_0001"]
    assert "best of 3 trials: trial_0001" in capsys.readouterr().out
    assert sorted(rates(runs)[i] for i in (0, 3, 4)) == [0.001, 0.01, 0.1]


@pytest.mark.parametrize("last", ["nan", "inf"])
def test_a_trial_that_diverged_has_failed_and_is_not_judged_by_what_it_was_before(runs, capsys, monkeypatch, last):
    run = module.run_program

    def diverging(words, log):
        code = run(words, log)
        folder = Path("runs/s", words[words.index("--run.name") + 1])
        if folder.name == "trial_0001":  # the best of all, until its last validation
            (folder / "metrics.csv").write_text(f"step,val/mAP,lr\n1,0.9,\n2,{last},\n3,,0.1\n")
        return code

    monkeypatch.setattr(module, "run_program", diverging)
    assert sweep("--trials", "3") == 1
    printed = capsys.readouterr().out
    assert f"trial_0001: failed: its last val/mAP is {last}" in printed
    assert "best of 2 trials: " in printed
    assert "best of 2 trials: trial_0001" not in printed
    assert sweep("--trials", "3") == 1  # as it ended
    assert len(runs.words) == 3


def test_a_metric_that_no_run_has_is_one_line_and_can_be_mended(runs, capsys):
    assert sweep("--trials", "1", metric={"name": "val/map", "goal": "maximize"}) == 2
    assert "has no val/map; name a column of it" in capsys.readouterr().err
    assert sweep("--trials", "1") == 0
    assert len(runs.words) == 1


def test_a_grid_runs_every_combination_once(runs):
    rate = {"model.optim.lr": {"values": [0.001, 0.01, 0.1]}}
    assert sweep("--trials", "2", method="grid", parameters=rate) == 0
    assert len(runs.words) == 2
    assert sweep(method="grid", parameters=rate) == 0
    assert sorted(rates(runs)) == [0.001, 0.01, 0.1]


def test_trials_of_other_parameters_are_not_mixed(runs, capsys):
    assert sweep("--trials", "1") == 0
    assert sweep("--trials", "2", parameters={"model.optim.lr": {"values": [0.001, 0.01]}}) == 2
    assert "holds trials of other parameters than the file's; give another --name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metric": {"name": "val/loss", "goal": "maximize"}}, "metric: got val/mAP, the file wants val/loss"),
        ({"metric": {"name": "val/mAP", "goal": "minimize"}}, "goal: got maximize, the file wants minimize"),
        (
            {"command": ["${env}", "medpretrain3d", "finetune", "--config", "other.yaml", "${args}"]},
            "words: got --config finetune.yaml '${args}', the file wants --config other.yaml '${args}'",
        ),
        (
            {"command": ["${env}", "medpretrain3d", "pretrain", "--config", "finetune.yaml", "${args}"]},
            "stage: got finetune, the file wants pretrain",
        ),
    ],
)
def test_trials_of_another_recipe_metric_or_goal_are_not_mixed(runs, capsys, changes, said):
    assert sweep("--trials", "1") == 0
    assert sweep("--trials", "2", **changes) == 2
    assert f"holds trials of another sweep, {said}; give another --name" in capsys.readouterr().err
    assert sweep("--trials", "2") == 0
    assert len(runs.words) == 2


def test_a_goal_may_change_until_there_is_a_trial(runs):
    Path("s.yaml").write_text(yaml.safe_dump(SWEEP))
    file = read_sweep(Path("s.yaml"))
    module.Sweep(file, Path("runs"))
    turned = module.Sweep(replace(file, is_maximized=False), Path("runs"))
    assert turned._search.direction.name == "MINIMIZE"


def test_without_a_number_of_trials_nothing_runs(runs, capsys):
    assert sweep() == 2
    assert "give --trials 20" in capsys.readouterr().err
    assert sweep(run_cap=1) == 0
    assert len(runs.words) == 1


def test_a_real_trial_of_toy_size(write_study, tmp_path):
    write_study()
    changes = {"trainer.max_steps": {"value": 2}, "trainer.val_check_interval": {"value": 2}}
    assert sweep("--trials", "1", parameters={**SWEEP["parameters"], **changes}) == 0
    folder = tmp_path / "runs/s/trial_0000"
    assert json.loads((folder / "run.json").read_text())["finished"]
    assert any(row["val/mAP"] for row in csv.DictReader((folder / "metrics.csv").open(newline="")))
    assert "model:" in (folder / "config.yaml").read_text()
