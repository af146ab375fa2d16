from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pytest

from medpretrain3d.commands import compare, evaluate
from medpretrain3d.errors import UserError
from tests.oracles import FIXTURES

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


def strict_json(path):
    """The content of a file that any JSON parser reads: no NaN and no Infinity."""

    def refuse(name):
        raise AssertionError(f"{path} holds {name}, which is no JSON")

    with open(path, encoding="utf-8") as file:
        return json.load(file, parse_constant=refuse)


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
    assert result["intervals"]["FROC_score_IoU_0.10"] == [None, None]
    printed = capsys.readouterr().out
    assert "2 scans, 2 objects, 2 detections; no intervals: 10 scans are the least" in printed
    assert "0.252 " in printed
    assert "[" not in printed
    assert "FROC at IoU 0.1" in printed


def test_the_table_answers_first_and_fits_a_terminal(tmp_path, capsys):
    random = np.random.default_rng(0)
    entries = {"predictions": [], "targets": []}
    for number in range(24):
        low = random.uniform(0, 90, (4, 3))
        boxes, labels = np.concatenate([low, low + 8], axis=1).tolist(), [0, 1, 2, number % 3]
        entries["targets"].append({"case": f"{number}", "boxes": boxes[: number % 5], "labels": labels[: number % 5]})
        scores = random.uniform(0, 1, 4).tolist()
        entries["predictions"].append({"case": f"{number}", "boxes": boxes, "scores": scores, "labels": labels[::-1]})
    classes = ["a lesion of the left kidney", "cyst", "mass"]
    for name, of_kind in entries.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"classes": classes, "frame": "lps_mm", name: of_kind}))
    places = [part for name in entries for part in (f"--{name}", tmp_path / f"{name}.json")]
    extra = ("--train-targets", tmp_path / "targets.json")
    for options in ((), extra, ("--protocol", "centre"), ("--protocol", "case-level")):
        assert call(evaluate, *places, *options) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80
        if "--protocol" not in options:
            assert re.match(r"mAP 0\.\d{3} \[0\.\d{3}, 0\.\d{3}\], the mean AP", lines[0])
            assert {"a lesion of t…", "no object"} <= {line[:14].strip() for line in lines}
            assert any(line.startswith("errors at IoU 0.5") for line in lines)


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
    result = strict_json(files["out"])
    assert result["AP_IoU_0.50_MaxDet_100"] == pytest.approx(1)
    assert result["mass_AP_IoU_0.50_MaxDet_100"] is None
    assert result["intervals"]["mass_AP_IoU_0.50_MaxDet_100"] == [None, None]
    assert call(evaluate, *arguments, "--bootstrap", 0, "--compat", "nndetection") == 0
    with open(files["out"]) as file:
        assert json.load(file)["AP_IoU_0.50_MaxDet_100"] == pytest.approx(0)


@pytest.mark.parametrize("protocol", ["detection", "centre", "case-level", "operating-points", "calibration", "picai"])
def test_what_does_not_exist_is_null_in_the_file(files, tmp_path, protocol):
    nothing = [{"case": case, "boxes": [], "scores": [], "labels": []} for case in "xy"]
    for key in ("predictions", "targets"):
        (tmp_path / f"no_{key}.json").write_text(json.dumps({"classes": ["nodule"], key: nothing}))
    found, targets = tmp_path / "no_predictions.json", ("--targets", tmp_path / "no_targets.json")
    written = ("--bootstrap", 5, "-o", files["out"])
    assert call(evaluate, "--protocol", protocol, "--predictions", found, *targets, *written) == 0
    assert "null" in json.dumps(strict_json(files["out"]))
    assert call(compare, found, found, *targets, *written) == 0
    assert strict_json(files["out"])["differences"]["FROC_score_IoU_0.10"]["difference"] is None


def test_compare_prints_one_line_per_metric_and_writes_on_demand(files, capsys):
    arguments = (files["bad"], files["good"], "--targets", files["targets"], "--bootstrap", 50)
    assert call(compare, *arguments) == 0
    assert "mAP_IoU_0.10_0.50_0.05_MaxDet_100   0.252   1.000  +0.748 " in capsys.readouterr().out
    assert call(compare, *arguments, "-o", files["out"]) == 0
    with open(files["out"]) as file:
        result = json.load(file)
    assert result["differences"]["FROC_score_IoU_0.10"]["difference"] == pytest.approx(1 - 2.5 / 7)


def test_compare_by_the_distance_of_centers(files, capsys):
    arguments = (files["bad"], files["good"], "--targets", files["targets"], "--bootstrap", 50)
    assert call(compare, *arguments, "--protocol", "centre", "--hit", "3", "-o", files["out"]) == 0
    assert "by the distance of centres, hit by 3.0; 2 scans" in capsys.readouterr().out
    result = strict_json(files["out"])
    assert (result["protocol"], result["criterion"], set(result["differences"])) == (
        "centre",
        3.0,
        {"AP", "FROC_score"},
    )
    with pytest.raises(UserError, match="--hit 3 is of protocol centre"):
        call(compare, *arguments, "--hit", "3")


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


def test_more_is_written_on_demand(files, tmp_path, capsys):
    arguments = ("--predictions", files["bad"], "--targets", files["targets"], "--bootstrap", 5)
    more = ("--csv", tmp_path / "cases.csv", "--plots", tmp_path / "plots", "--size-bins-mm", 1, 3)
    assert call(evaluate, *arguments, *more) == 0
    rows = (tmp_path / "cases.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "case,num_targets,num_predictions,num_hits,max_score,score"
    assert rows[1].startswith("x,1,2,1,0.9,0.5")
    assert len(rows) == 3
    names = {"froc", "precision_recall", "scores", "size", "reliability"}
    pictures = {path.name for path in (tmp_path / "plots").iterdir()}
    assert pictures == {f"{name}.{ending}" for name in names for ending in ("png", "svg")}
    assert (tmp_path / "plots" / "froc.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in (tmp_path / "plots" / "froc.svg").read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert "diameter 1 to 3 mm" in printed
    assert "expected calibration error" in printed


@pytest.mark.parametrize(
    ("protocol", "key", "shown"),
    [
        ("case-level", "case_level", "scans with objects (2)"),
        ("operating-points", "operating_points", "at IoU 0.1"),
        ("calibration", "calibration", "expected calibration error"),
        ("centre", "FROC_curve", "by 'radius'"),
        ("ribfrac", "froc_score", "FROC at IoU > 0.2 of boxes"),
        ("picai", "auroc", "IoU of boxes at least 0.1"),
    ],
)
def test_every_protocol_of_boxes_runs(files, protocol, key, shown, capsys):
    arguments = ("--predictions", files["bad"], "--targets", files["targets"], "-o", files["out"], "--bootstrap", 5)
    assert call(evaluate, "--protocol", protocol, *arguments) == 0
    assert shown in capsys.readouterr().out
    with open(files["out"]) as file:
        result = json.load(file)
    assert key in result
    assert result["protocol"] == protocol


@pytest.mark.parametrize("protocol", ["case-level", "operating-points", "calibration"])
def test_a_section_of_points_says_that_they_are_hit_by_their_radius(tmp_path, capsys, protocol):
    def write(key: str, offset: float, frame: str = "lps_mm") -> Path:
        point = {"case": "x", "boxes": [[offset] * 6], "labels": [0]} | ({"scores": [0.9]} if key != "targets" else {})
        path = tmp_path / f"{key}.json"
        path.write_text(json.dumps({"classes": ["nodule"], "frame": frame, key: [point]}))
        return path

    targets = write("targets", 10.0)
    files = ("--predictions", write("predictions", 12.0), "--targets", targets)
    arguments = ("--protocol", protocol, *files, "--bootstrap", 0, "-o", tmp_path / "out.json")
    assert call(evaluate, *arguments) == 0
    assert "IoU" not in (printed := capsys.readouterr().out)
    assert protocol != "operating-points" or "by 'radius'" in printed
    result = strict_json(tmp_path / "out.json")
    assert (result["criterion"], "iou" in result, result["per_case"][0]["num_hits"]) == ("radius", False, 1)
    for iou in (0.1, 0.9):
        with pytest.raises(UserError, match=rf"--iou {iou}: .*targets.json has points, .* radius of 5 mm; leave it"):
            call(evaluate, *arguments, "--iou", iou)
    write("targets", 10.0, "xyz_voxels"), write("predictions", 12.0, "xyz_voxels")
    with pytest.raises(UserError, match="frame is 'xyz_voxels', the distance 5 is in mm"):
        call(evaluate, *arguments)


def test_luna16_on_the_files_of_the_public_script(tmp_path, capsys):
    folder = FIXTURES / "luna16"
    inputs = {"annotations": "annotations", "excluded": "annotations_excluded", "series": "seriesuids"}
    inputs["predictions"] = "predictions"
    arguments = [part for name, file in inputs.items() for part in (f"--{name}", folder / "set001" / f"{file}.csv")]
    output = ("--bootstrap", 20, "-o", tmp_path / "out.json", "--plots", tmp_path / "plots")
    assert call(evaluate, "--protocol", "luna16", *arguments, *output) == 0
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["set001"]
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["cpm"] == pytest.approx(
        expected["cpm"], abs=1e-6
    )
    assert "0.780000" in capsys.readouterr().out
    assert (tmp_path / "plots" / "froc.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--protocol", "luna16"), "protocol luna16 needs --annotations"),
        (("--protocol", "centre", "--hit", "near"), "hit criterion 'near'"),
        (("--hit", "box"), "--hit is of protocol centre, got protocol detection; leave it out"),
        (("--protocol", "calibration", "--scores", 0.5), "--scores is of protocol detection or centre or operating"),
        (("--protocol", "centre", "--compat", "coco"), "--compat is of protocol detection, got protocol centre"),
        (("--protocol", "calibration", "--iou", 0), "--iou is 0"),
        (("--iou", 0.1), "--iou is of protocol case-level or operating-points or calibration, got protocol detection"),
        (("--scores", 2), "operating point at score 2"),
        (("--size-bins-mm", 3, 1), "must rise"),
    ],
)
def test_options_that_make_no_sense_are_refused(files, arguments, said):
    with pytest.raises(UserError, match=said):
        call(evaluate, "--predictions", files["good"], "--targets", files["targets"], "-o", files["out"], *arguments)


def test_the_convention_of_the_boxes_can_be_chosen(files, tmp_path):
    for name, key in (("p", "predictions"), ("t", "targets")):
        box = [0, 0, 0, 1, 1, 3] if name == "p" else [0, 0, 0, 1, 1, 1]
        entry = {"case": "x", "boxes": [box], "labels": [0], **({"scores": [0.5]} if name == "p" else {})}
        (tmp_path / f"{name}.json").write_text(json.dumps({"classes": ["a"], key: [entry]}))
    arguments = ("--predictions", tmp_path / "p.json", "--targets", tmp_path / "t.json", "-o", files["out"])
    # Half-open 1 of 3 voxels, inclusive 8 of 16.
    for convention, at_half in (("half-open", 0), ("inclusive", 1)):
        assert call(evaluate, *arguments, "--bootstrap", 0, "--boxes", convention) == 0
        with open(files["out"]) as file:
            assert json.load(file)["AP_IoU_0.50_MaxDet_100"] == at_half


def test_what_a_detector_has_to_beat_stands_in_the_table(files, tmp_path, capsys):
    arguments = ("--predictions", files["bad"], "--targets", files["targets"], "-o", files["out"])
    assert call(evaluate, *arguments, "--train-targets", files["targets"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^position prior +\d\.\d{3} ", printed, re.M)
    assert re.search(r"^random boxes +\d\.\d{3} ", printed, re.M)
    assert set(strict_json(files["out"])["trivial_baselines"]) == {"position prior", "random boxes"}
    content = json.loads(Path(files["targets"]).read_text()) | {"classes": ["mass"]}
    (tmp_path / "other.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="write both with the same"):
        call(evaluate, *arguments, "--train-targets", tmp_path / "other.json")
