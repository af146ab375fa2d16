"""A report on scans of which some are of one patient."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medpretrain3d.evaluation import evaluate, pair, read_predictions, read_targets
from medpretrain3d.evaluation.named_metrics import AP50, MAP
from medpretrain3d.statistics import Verdict
from medpretrain3d.study.paired_scores import Scorer
from medpretrain3d.study.report import make_report
from medpretrain3d.study.run import find_runs

from .test_report import NUM_CASES, write_finetuning


def tell_patients(folder: Path, scans_each: int, *, as_earlier: bool = False) -> None:
    """Write of whom the test scans of a run are, the first and the seventh of one where each has two; score anew.

    An earlier version did not say whose the scans are.
    """
    path = folder / "test" / "targets.json"
    document = json.loads(path.read_text())
    num_patients = NUM_CASES // scans_each
    for place, entry in enumerate(document["targets"]):
        entry["patient"] = f"p{place % num_patients}"
    if not as_earlier:
        path.write_text(json.dumps(document))
    targets = read_targets(path)
    found = pair(read_predictions(folder / "test" / "predictions.json"), targets)
    (folder / "test" / "metrics.json").write_text(json.dumps(evaluate(found, targets.cases, targets.classes)))


def vary(folder: Path, seed: int) -> None:
    """Move the boxes of each scan by something else."""
    path = folder / "test" / "predictions.json"
    document, drawn = json.loads(path.read_text()), np.random.default_rng(seed)
    for entry in document["predictions"]:
        shift = drawn.uniform(0, 6)
        entry["boxes"] = [[box[0] + shift, *box[1:3], box[3] + shift, *box[4:]] for box in entry["boxes"]]
    path.write_text(json.dumps(document))


def write_arms(root: Path, scans_each: int, as_earlier: tuple[str, ...] = ()) -> None:
    for arm, shift in (("scratch", 2.0), ("mae", 0.0)):
        for seed in (0, 1):
            folder = write_finetuning(root, f"{arm}_{seed}", arm, shift, seed=seed)
            vary(folder, seed + 10 * len(arm))
            tell_patients(folder, scans_each, as_earlier=arm in as_earlier)


def test_patients_decide_whether_there_is_a_verdict(tmp_path: Path):
    write_arms(tmp_path / "two", 2)
    report = make_report(find_runs([tmp_path / "two"]), "Title")
    (one,) = report.verdicts
    assert one.gist == str(Verdict.NONE)
    assert "(2 seeds, 12 test cases of 6 patients)" in one.headline
    assert "12 test scans of 6 patients; an interval needs 10" in one.numbers
    (row,) = report.differences.rows
    assert "12 of 6 patients" in row
    assert [note for note in report.notes if note.startswith("d: 12 test cases of 6 patients; intervals, p and")]
    assert not find_runs([tmp_path / "two"])[0].estimate(MAP.key).has_interval
    write_arms(tmp_path / "one", 1)
    report = make_report(find_runs([tmp_path / "one"]), "Title")
    assert report.verdicts[0].gist != str(Verdict.NONE)
    assert "(2 seeds, 12 test cases)" in report.verdicts[0].headline
    assert not [note for note in report.notes if "patients" in note]


def test_scores_that_a_test_wrote_are_those_of_its_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Names sort case10 before case2, and the first patient before the last: each has the value without him."""
    monkeypatch.setattr("medpretrain3d.evaluation.bootstrap.MIN_PATIENTS", 2)
    folder = write_finetuning(tmp_path, "mae", "mae", 1.0)
    vary(folder, 0)
    tell_patients(folder, 2)
    stored = Scorer([MAP, AP50]).scores(find_runs([tmp_path]))
    path = folder / "test" / "metrics.json"
    metrics = json.loads(path.read_text())
    assert len(metrics["left_out"][MAP.key]["without"]) == 6
    del metrics["left_out"]
    path.write_text(json.dumps(metrics))
    computed = Scorer([MAP, AP50]).scores(find_runs([tmp_path]))
    for name, one in computed.items():
        np.testing.assert_allclose(stored[name].without, one.without, atol=1e-9)
        assert len(np.unique(one.without)) > 1
        assert stored[name].num_patients_behind == one.num_patients_behind == 6


def test_a_run_of_an_earlier_version_is_compared_by_whose_scans_others_say_they_are(tmp_path: Path):
    write_arms(tmp_path / "all", 2)
    write_arms(tmp_path / "some", 2, as_earlier=("scratch",))
    numbers = []
    for name in ("all", "some"):
        report = make_report(find_runs([tmp_path / name]), "Title")
        numbers.append((report.verdicts[0], [str(cell) for cell in report.differences.rows[0]]))
    assert numbers[0] == numbers[1]
