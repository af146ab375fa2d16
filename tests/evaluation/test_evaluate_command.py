from __future__ import annotations

import argparse
import json
import math

import pytest

from medpretrain3d.commands import compare, evaluate
from medpretrain3d.errors import UserError

BOX = [0.0, 0, 0, 2, 2, 2]
FAR = [9.0, 9, 9, 11, 11, 11]


@pytest.fixture
def files(tmp_path):
    """Two scans with one object each: `good` finds both, `bad` the first after a false positive."""

    def write(name, key, entries):
        (tmp_path / name).write_text(json.dumps({"classes": ["nodule"], key: entries}))
        return str(tmp_path / name)

    good = [{"case": case, "boxes": [BOX], "scores": [0.9], "labels": [0]} for case in "xy"]
    bad = [
        {"case": "x", "boxes": [FAR, BOX], "scores": [0.9, 0.8], "labels": [0, 0]},
        {"case": "y", "boxes": [], "scores": [], "labels": []},
    ]
    targets = [{"case": case, "boxes": [BOX], "labels": [0]} for case in "xy"]
    return {
        "good": write("good.json", "predictions", good),
        "bad": write("bad.json", "predictions", bad),
        "targets": write("targets.json", "targets", targets),
        "out": str(tmp_path / "new" / "folder" / "out.json"),
    }


def call(command, *arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(one) for one in arguments]))


def test_evaluate_writes_the_numbers_and_prints_a_table(files, capsys):
    arguments = ("--predictions", files["bad"], "--targets", files["targets"], "-o", files["out"], "--bootstrap", 20)
    assert call(evaluate, *arguments) == 0
    with open(files["out"]) as file:
        result = json.load(file)
    # Precision 1/2 up to recall 1/2: 51 of 101 levels.
    assert result["AP_IoU_0.10_MaxDet_100"] == pytest.approx(51 / 202)
    assert result["nodule_AP_IoU_0.10_MaxDet_100"] == pytest.approx(51 / 202)
    # The hit comes with half a false positive per scan.
    assert result["FROC_curve_IoU_0.10"] == [0, 0, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert (result["num_cases"], result["num_predictions"], result["num_targets"]) == (2, 2, {"nodule": 2})
    assert (result["num_bootstrap"], result["seed"], result["confidence"]) == (20, 0, 0.95)
    low, high = result["intervals"]["FROC_score_IoU_0.10"]
    assert 0 <= low <= result["FROC_score_IoU_0.10"] <= high <= 1
    printed = capsys.readouterr().out
    assert "2 scans, 2 objects, 2 detections; 95% intervals from 20 resamplings" in printed
    assert "0.252 [" in printed
    assert "FROC at IoU 0.1" in printed


def test_evaluate_without_bootstrap_writes_no_intervals(files, capsys):
    arguments = ("--predictions", files["good"], "--targets", files["targets"], "-o", files["out"], "--bootstrap", 0)
    assert call(evaluate, *arguments) == 0
    with open(files["out"]) as file:
        assert json.load(file)["intervals"] == {}
    assert "[" not in capsys.readouterr().out


def test_evaluate_names_a_class_without_objects(files, tmp_path, capsys):
    for name in ("good", "targets"):
        with open(files[name]) as file:
            content = json.load(file)
        content["classes"].append("mass")
        (tmp_path / f"{name}2.json").write_text(json.dumps(content))
    arguments = ("--predictions", tmp_path / "good2.json", "--targets", tmp_path / "targets2.json", "-o", files["out"])
    assert call(evaluate, *arguments, "--bootstrap", 5) == 0
    assert "classes without objects, left out of the means: mass" in capsys.readouterr().out
    with open(files["out"]) as file:
        result = json.load(file)
    assert result["AP_IoU_0.50_MaxDet_100"] == pytest.approx(1)
    assert math.isnan(result["mass_AP_IoU_0.50_MaxDet_100"])
    assert call(evaluate, *arguments, "--bootstrap", 0, "--compat", "nndetection") == 0
    with open(files["out"]) as file:
        assert json.load(file)["AP_IoU_0.50_MaxDet_100"] == pytest.approx(0)


def test_compare_prints_one_line_per_metric_and_writes_on_demand(files, capsys):
    arguments = (files["bad"], files["good"], "--targets", files["targets"], "--bootstrap", 50)
    assert call(compare, *arguments) == 0
    assert "mAP_IoU_0.10_0.50_0.05_MaxDet_100   0.252   1.000  +0.748 [" in capsys.readouterr().out
    assert call(compare, *arguments, "-o", files["out"]) == 0
    with open(files["out"]) as file:
        result = json.load(file)
    assert result["differences"]["FROC_score_IoU_0.10"]["difference"] == pytest.approx(1 - 2.5 / 7)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--predictions": "nowhere.json"}, "nowhere.json: no such file"),
        ({"--bootstrap": -1}, "replicates"),
        ({"--confidence": 95}, "confidence is 95"),
        ({"--seed": -3}, "seed is -3"),
    ],
)
def test_bad_input_of_evaluate_is_one_line_and_writes_nothing(files, tmp_path, change, said):
    arguments = {"--predictions": files["good"], "--targets": files["targets"], "-o": files["out"]} | change
    with pytest.raises(UserError, match=said) as caught:
        call(evaluate, *(one for pair in arguments.items() for one in pair))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_compare_refuses_files_of_different_scans(files, tmp_path):
    one = {"case": "x", "boxes": [], "scores": [], "labels": []}
    (tmp_path / "short.json").write_text(json.dumps({"classes": ["nodule"], "predictions": [one]}))
    with pytest.raises(UserError, match="no entry for case 'y'"):
        call(compare, files["good"], tmp_path / "short.json", "--targets", files["targets"])
