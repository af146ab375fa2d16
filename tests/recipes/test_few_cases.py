"""Fewer cases to validate and test on than processes, or none."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from finetune import __main__ as program
from finetune.datamodule import FinetuneData
from finetune.scoring import CaseResult, evaluate_results
from medpretrain3d.evaluation import PredictedCase, TargetCase
from medpretrain3d.evaluation.protocols import CENTER, DETECTION
from medpretrain3d.inference.cached_detections import CachedDetections

from .conftest import TINY_FINETUNE, TINY_PRETRAIN, write_cubes
from .sittings import run_sitting

ONE_SAMPLE = ("--data.batch_size", "1")


def columns(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return set(next(csv.reader(file)))


def test_a_run_without_validation_and_test_cases_ends_with_a_bundle_and_no_numbers(tmp_path, capsys):
    store = write_cubes(tmp_path / "store", {"train": 4})
    program.main(["fit", *TINY_FINETUNE, "--data.store", str(store), "--run.root", str(tmp_path), "--run.name", "r"])
    folder = tmp_path / "smoke" / "r"
    said = capsys.readouterr().out
    assert "no validation case" in said
    assert "no test case; the run ends without a test" in said
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["finished"] is True
    assert (folder / "bundle" / "bundle.json").is_file()
    assert not [name for name in columns(folder) if name.startswith(("val/", "test/"))]
    assert not (folder / "test").exists()


@pytest.mark.parametrize("has_test", [False, True])
def test_data_that_are_not_tested_say_so_before_training(tmp_path, capsys, has_test):
    store = write_cubes(tmp_path / "store", {"train": 2, "val": 1, "test": int(has_test)})
    FinetuneData(str(store), (16, 16, 16), batch_size=1)
    assert ("no test case; the run ends without a test" in capsys.readouterr().out) != has_test


@pytest.mark.parametrize("protocol", [DETECTION, CENTER])
@pytest.mark.parametrize(("num_objects", "expected"), [(0, np.nan), (1, 0.0)])
def test_a_validation_without_objects_measures_nothing_and_one_that_finds_none_measures_0(
    protocol, num_objects, expected
):
    boxes = np.array([[0, 0, 0, 4, 4, 4], [9, 9, 9, 12, 12, 12]], float)
    found = PredictedCase("a", boxes[1:], np.array([0.5]), np.zeros(1, int))
    wanted = TargetCase("a", boxes[:num_objects], np.zeros(num_objects, int), boxes[:0])
    results = {"a": CaseResult(found, wanted, (1.0, 1.0, 1.0))}
    watched = evaluate_results(results, ["cube"], protocol)
    np.testing.assert_equal(list(watched.values()), [expected] * len(watched))


@pytest.mark.slow
def test_one_case_to_validate_and_one_to_test_on_two_processes(tmp_path):
    store = write_cubes(tmp_path / "store", {"train": 4, "val": 1, "test": 1})
    place = ["--data.store", str(store), "--run.root", str(tmp_path), "--run.name", "r"]
    run_sitting(tmp_path, "finetune", *TINY_FINETUNE, *place, *ONE_SAMPLE, num_processes=2)
    folder = tmp_path / "smoke" / "r"
    assert {"val/mAP", "test/mAP"} <= columns(folder)
    assert json.loads((folder / "test" / "metrics.json").read_text(encoding="utf-8"))["num_cases"] == 1
    assert len(CachedDetections.load(folder / "validation" / "sightings.safetensors").cases) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("num_val_cases", "is_measured"), [(1, True), (0, False)])
def test_pretraining_on_two_processes_with_one_case_held_out_or_none(tmp_path, num_val_cases, is_measured):
    store = write_cubes(tmp_path / "store", {"train": 4})
    probes = json.dumps([{"class_path": "pretrain.probes.Probes", "init_args": {"num_crops": 2}}])
    place = ["--data.store", str(store), "--run.root", str(tmp_path), "--run.name", "r", "--trainer.callbacks", probes]
    held_out = ("--data.num_val_cases", str(num_val_cases))
    run_sitting(tmp_path, "pretrain", *TINY_PRETRAIN, *place, *ONE_SAMPLE, *held_out, num_processes=2)
    measured = {name for name in columns(tmp_path / "smoke" / "r") if name.startswith(("val/", "probe/"))}
    assert measured == (
        {"val/loss", "probe/psnr", "probe/effective_rank", "probe/feature_std"} if is_measured else set()
    )
