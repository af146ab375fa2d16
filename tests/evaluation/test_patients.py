"""Scans of one patient are one unit of whatever says how sure a number is."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from medpretrain3d.cli import main
from medpretrain3d.commands.compare import table
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import PredictedCase, TargetCase, compare, evaluate, read_targets
from medpretrain3d.evaluation.bootstrap import Resampling
from medpretrain3d.evaluation.center_distance import center
from medpretrain3d.evaluation.data_set import match_data_set
from medpretrain3d.evaluation.detection import LEFT_OUT_KEYS, ar_key, mean_ar_key
from medpretrain3d.evaluation.named_metrics import METRICS, without_each
from medpretrain3d.evaluation.overlap import of_boxes
from medpretrain3d.evaluation.patients import Patients
from medpretrain3d.evaluation.picai import picai
from medpretrain3d.evaluation.protocols import DETECTION
from medpretrain3d.evaluation.ribfrac import ribfrac
from medpretrain3d.evaluation.scan_frame import in_scan_frames
from medpretrain3d.evaluation.trivial_baselines import trivial_baselines
from medpretrain3d.store.grid import Grid
from medpretrain3d.visualization.evaluation_figures import froc_figure

BOX = np.array([[0.0, 0, 0, 10, 10, 10]])
LABEL = np.array([0])


def found(hits, scores, num_scans=1):
    """A detection in each scan, on the object or beside it, the same in all scans of a patient."""
    return [
        PredictedCase(f"{patient}_{scan}", BOX if hit else BOX + 50, np.array([score]), LABEL)
        for patient, (hit, score) in enumerate(zip(hits, scores, strict=True))
        for scan in range(num_scans)
    ]


def wanted(num_patients, num_scans=1, are_known=True):
    return [
        TargetCase(f"{patient}_{scan}", BOX, LABEL, patient=f"p{patient}" if are_known else None)
        for patient in range(num_patients)
        for scan in range(num_scans)
    ]


def varied(num_scans=30, num_classes=2):
    """Predictions of two detectors and objects in scans of many kinds."""
    drawn = np.random.default_rng(0)
    targets, sides = [], ([], [])
    for scan in range(num_scans):
        low = 100 * drawn.random((drawn.integers(0, 4), 3))
        boxes, labels = np.concatenate([low, low + 12], axis=1), drawn.integers(0, num_classes, len(low))
        targets.append(TargetCase(str(scan), boxes, labels, patient=f"p{scan}"))
        for side in sides:
            shifted = np.concatenate([boxes + drawn.normal(0, 3, (len(boxes), 1)), BOX + 200])
            scores = drawn.random(len(shifted))
            side.append(PredictedCase(str(scan), shifted, scores, np.append(labels, 0)))
    return *sides, targets


def test_scans_of_a_patient_are_left_out_together():
    cases = [TargetCase(str(place), BOX, LABEL, patient=one) for place, one in enumerate(["b", None, "b", "a", None])]
    patients = Patients.of(cases)
    assert patients.of_scan.tolist() == [0, 1, 0, 2, 3]
    assert (patients.num, patients.has_one_scan_each) == (4, False)
    assert patients.left_out().tolist() == [[0, 1, 0, 1, 1], [1, 0, 1, 1, 1], [1, 1, 1, 0, 1], [1, 1, 1, 1, 0]]
    has = np.array([[1, 0], [0, 0], [1, 1], [1, 0], [0, 0]], dtype=bool)
    assert patients.num_with(has).tolist() == [2, 1]
    assert Patients(np.repeat(np.arange(300), 2)).left_out().shape == (200, 600)
    assert not Patients.of([]).num


def test_agreeing_scans_of_a_patient_say_no_more_than_one_of_them():
    """Twenty patients: six scans of each had the interval of 120 patients, 0.4 of the width."""
    drawn = np.random.default_rng(0)
    hits, scores = drawn.random(20) < 0.6, drawn.random(20)
    once, often = (evaluate(found(hits, scores, k), wanted(20, k), ["a"], size_edges_mm=(6.0,)) for k in (1, 6))
    assert (often["num_cases"], often["num_patients"]) == (120, 20)
    for key in (ar_key(0.1), mean_ar_key(100)):
        assert often[key] == once[key]
        assert often["intervals"][key] == pytest.approx(once["intervals"][key])
    assert once["intervals"][ar_key(0.1)][1] - once["intervals"][ar_key(0.1)][0] > 0.4
    for section, key in (("case_level", "sensitivity"), ("calibration", "expected_calibration_error")):
        assert often[section]["intervals"][key] == pytest.approx(once[section]["intervals"][key], nan_ok=True)
    for one, other in zip(once["operating_points"], often["operating_points"], strict=True):
        for key, interval in one["intervals"].items():
            assert other["intervals"][key] == pytest.approx(interval, nan_ok=True)
    for one, other in zip(once["size_strata"], often["size_strata"], strict=True):
        interval = one["intervals"]["recall_IoU_0.10"]
        assert other["intervals"]["recall_IoU_0.10"] == pytest.approx(interval, nan_ok=True)
    assert {len(one["without"]) for one in often["left_out"].values()} == {20}
    overlaps = [of_boxes(found(hits, scores, k), wanted(20, k), ["a"]) for k in (1, 6)]
    curves = [ribfrac(one, Resampling()) for one in overlaps]
    assert curves[0]["intervals"]["froc_score"] == pytest.approx(curves[1]["intervals"]["froc_score"])
    assert [one["num_patients"] for one in curves] == [20, 20]


def test_equal_detectors_are_called_different_as_often_as_p_says():
    """Ten patients of six scans that agree: 40 % of such pairs differed by scans (p < 0.05, mAR)."""
    drawn = np.random.default_rng(0)
    targets, key, wrong, num_pairs = wanted(10, 6), mean_ar_key(100), 0, 100
    for _ in range(num_pairs):
        sides = [found(drawn.random(10) < 0.5, np.full(10, 0.9), 6) for _ in range(2)]
        row = compare(*sides, targets, ["a"], num_bootstrap=1)["differences"][key]
        wrong += row["p_value"] < 0.05
        low, high = row["interval"]
        assert np.isnan(low) or low <= row["difference"] <= high
    assert wrong <= 0.09 * num_pairs  # 5 and two standard errors


def test_one_scan_of_each_patient_gives_every_number_as_without_patients():
    """To the last bit, whatever the scans are called."""
    a, b, targets = varied()
    names = ("x", "y")
    unknown = [replace(one, patient=None) for one in targets]
    train = unknown[:10]
    one_class = [[replace(one, labels=0 * one.labels) for one in cases] for cases in (a, targets, unknown)]

    def numbers(cases, of_one_class):
        overlaps = of_boxes(one_class[0], of_one_class, ["x"])
        return [
            evaluate(a, cases, names, size_edges_mm=(6.0, 13.0)),
            center(a, cases, names),
            compare(a, b, cases, names, 200),
            trivial_baselines(train, cases, names, Resampling()),
            ribfrac(overlaps, Resampling()),
            picai(overlaps, Resampling()),
        ]

    known, without = numbers(targets, one_class[1]), numbers(unknown, one_class[2])
    assert json.dumps(known) == json.dumps(without)
    assert known[0]["num_patients"] == known[0]["num_cases"] == 30
    assert " of 30 patients" not in "\n".join(DETECTION.table(known[0]))


def test_many_scans_of_few_patients_have_no_interval():
    """60 scans of 6 patients: nothing claims a confidence, and the tables say of how many patients they are."""
    hits, scores = [1, 0, 1, 1, 0, 1], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    a, b, targets = found(hits, scores, 10), found(hits[::-1], scores, 10), wanted(6, 10)
    result = evaluate(a, targets, ["a"])
    assert np.isnan([pair for pair in result["intervals"].values() if np.ndim(pair) == 1]).all()
    heading = DETECTION.table(result)[1]
    assert heading.startswith("60 scans of 6 patients, 60 objects")
    assert heading.endswith("no intervals: 10 patients are the least that hold one")
    assert result["left_out"] == {}
    difference = compare(a, b, targets, ["a"])
    assert (difference["num_cases"], difference["num_patients"]) == (60, 6)
    for row in difference["differences"].values():
        assert np.isnan(row["interval"]).all()
        assert row["p_value"] * 2**6 == pytest.approx(round(row["p_value"] * 2**6))  # exact, of 6 patients
    head = table(difference).splitlines()[0]
    assert head.startswith("60 scans of 6 patients; 95% intervals over patients, none with fewer than 10 patients")
    assert "from all sign flips of patients" in head
    assert np.isnan(without_each([METRICS["mAP"]], a, targets, ["a"])["mAP"].interval()).all()
    one_patient = compare(a[:10], b[:10], targets[:10], ["a"])["differences"]
    assert np.isnan([row["p_value"] for row in one_patient.values()]).all()


def test_what_rests_on_few_patients_with_objects_has_no_interval():
    """Ten scans with an object each, of two patients, among 30 patients."""
    targets = [
        TargetCase(str(scan), BOX if scan < 10 else BOX[:0], LABEL if scan < 10 else LABEL[:0], patient=f"p{patient}")
        for scan, patient in enumerate([0] * 5 + [1] * 5 + list(range(2, 30)))
    ]
    predictions = [PredictedCase(one.case, BOX, np.array([0.9 - i / 90]), LABEL) for i, one in enumerate(targets)]
    result = evaluate(predictions, targets, ["a"])
    assert np.isnan(result["intervals"][ar_key(0.1)]).all()
    assert np.isnan(result["case_level"]["intervals"]["auroc"]).all()
    assert not np.isnan(result["operating_points"][0]["intervals"]["false_positives_per_scan"]).any()
    assert result["case_level"]["num_positive"] == 10  # scans
    lesions = picai(of_boxes(predictions, targets, ["a"]), Resampling())
    assert np.isnan(lesions["intervals"]["score"]).all()
    assert (lesions["num_patients"], lesions["num_positive_cases"]) == (30, 10)


def test_bands_of_pictures_and_baselines_are_over_patients():
    drawn = np.random.default_rng(1)
    hits, scores = drawn.random(12) < 0.6, drawn.random(12)
    targets = wanted(12, 3)
    baselines = trivial_baselines(targets[:3], targets, ["a"], Resampling())
    alone = trivial_baselines(targets[:3], wanted(12), ["a"], Resampling())
    for name, numbers in baselines.items():
        assert set(numbers["intervals"]) == set(alone[name]["intervals"])
    of_prior = [one["position prior"]["intervals"][mean_ar_key(100)] for one in (baselines, alone)]
    assert of_prior[0] == pytest.approx(of_prior[1])
    bands = []
    for num_scans in (1, 3):
        scans = match_data_set(found(hits, scores, num_scans), wanted(12, num_scans), ["a"], [0.1])
        (band,) = froc_figure({"a": scans.pooled}, Resampling()).axes[0].collections
        bands.append(band.get_paths()[0].vertices)
    np.testing.assert_allclose(*bands)
    for key in LEFT_OUT_KEYS:
        assert len(evaluate(found(hits, scores, 3), targets, ["a"])["left_out"][key]["without"]) == 12


def test_files_name_patients_where_they_are_known(tmp_path, capsys):
    path = tmp_path / "targets.json"
    entries = [{"case": case, "boxes": BOX.tolist(), "labels": [0]} for case in "abcde"]
    for entry, patient in zip(entries, ("x", "x", None, "", 7), strict=True):
        entry["patient"] = patient
    del entries[2]["patient"]
    path.write_text(json.dumps({"classes": ["a"], "targets": entries}))
    assert [one.patient for one in read_targets(path).cases] == ["x", "x", None, None, "7"]
    predictions = tmp_path / "predictions.json"
    founds = [{"case": case, "boxes": BOX.tolist(), "labels": [0], "scores": [0.9]} for case in "abcde"]
    predictions.write_text(json.dumps({"classes": ["a"], "predictions": founds}))
    assert main(["evaluate", "--predictions", str(predictions), "--targets", str(path)]) == 0
    assert "5 scans of 4 patients, 5 objects" in capsys.readouterr().out
    entries[0]["patient"] = ["x"]
    path.write_text(json.dumps({"classes": ["a"], "targets": entries}))
    with pytest.raises(UserError, match=r"case 'a': patient \['x'\] is no name; name every patient by a text"):
        read_targets(path)


def test_a_case_keeps_its_patient_in_an_oblique_frame():
    turned = np.eye(4)
    turned[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    grid = Grid((20, 20, 20), turned)
    boxes_vox = np.array([[2.0, 2, 2, 6, 6, 6]])
    case = TargetCase("a", grid.boxes_to_lps_mm(boxes_vox), LABEL, None, grid, boxes_vox, patient="x")
    nothing = PredictedCase("a", BOX[:0], np.zeros(0), LABEL[:0])
    framed = in_scan_frames([nothing], [case])
    assert framed.num_oblique == 1
    assert framed.targets[0].patient == "x"
