from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from medpretrain3d.evaluation.named_metrics import AP50, MAP
from medpretrain3d.study.condition_tables import case_table, cost_table, error_table, matrix_table
from medpretrain3d.study.conditions import Condition, base_arm, find_conditions, range_of
from medpretrain3d.study.design import NOTHING_DECLARED
from medpretrain3d.study.identity import arm_labels
from medpretrain3d.study.paired_scores import Scorer
from medpretrain3d.study.report import make_report
from medpretrain3d.study.run import find_runs

from .test_report import write_finetuning, write_test


def conditions_of(root: Path) -> list[Condition]:
    runs = find_runs([root])
    arms = arm_labels(runs)
    return find_conditions(
        runs, arms, {run: int(run.method != "scratch") for run in runs}, NOTHING_DECLARED, Scorer([MAP])
    )


def test_an_arm_reaches_the_mean_of_its_seeds(tmp_path: Path):
    """Shifts of 5 and 2 voxels: 5 and 9 of 9 thresholds, whatever the scan."""
    for seed, shift in enumerate((5.0, 2.0)):
        write_finetuning(tmp_path, f"mae_{seed}", "mae", shift, seed=seed)
    (one,) = conditions_of(tmp_path)
    assert (one.arm, str(one.place), one.seeds, one.is_primary) == ("mae", "d, all labels", (0, 1), True)
    assert one.estimate.value == pytest.approx((5 / 9 + 1) / 2)
    assert one.estimate.low == 0  # two seeds that differ this much say nothing: the interval ends where numbers do
    assert one.estimate.high == 1


def test_one_seed_has_the_interval_of_its_test(tmp_path: Path):
    folder = write_finetuning(tmp_path, "mae", "mae", 5.0)
    metrics = json.loads((folder / "test" / "metrics.json").read_text())
    (one,) = conditions_of(tmp_path)
    assert [one.estimate.low, one.estimate.high] == metrics["intervals"][MAP.key]


def test_folds_are_one_seed_and_budgets_are_apart(tmp_path: Path):
    for fold in (0, 1):
        folder = write_finetuning(tmp_path, f"all_{fold}", "mae", 5.0, fold=fold)
        shutil.rmtree(folder / "test")
        write_test(folder, 5.0, case_prefix=f"fold{fold}_")
    write_finetuning(tmp_path, "four", "mae", 5.0, num_cases=4)
    found = {one.place.labels: (len(one.runs), one.seeds, one.is_primary) for one in conditions_of(tmp_path)}
    assert found == {"all": (2, (0,), True), "4": (1, (0,), False)}


def test_a_seed_without_all_folds_is_no_column_beside_others(tmp_path: Path):
    """Seed 1 lacks a fold: what it has are other scans, and the interval over seeds and scans would pair them."""
    for seed, folds in ((0, (0, 1)), (1, (0,)), (2, (0, 1))):
        for fold in folds:
            folder = write_finetuning(tmp_path, f"mae_{seed}_{fold}", "mae", 5.0 - seed, seed=seed, fold=fold)
            shutil.rmtree(folder / "test")
            write_test(folder, 5.0 - seed, case_prefix=f"fold{fold}_")
    (one,) = conditions_of(tmp_path)
    assert one.seeds == (0, 2)
    assert one.estimate.value == pytest.approx((5 / 9 + 1) / 2)


def test_arms_on_other_scans_side_by_side_are_said(tmp_path: Path):
    for arm, folds in (("scratch", (0, 1)), ("mae", (0,))):
        for fold in folds:
            folder = write_finetuning(tmp_path, f"{arm}_{fold}", arm, 5.0, fold=fold)
            shutil.rmtree(folder / "test")
            write_test(folder, 5.0, case_prefix=f"fold{fold}_")
    notes = make_report(find_runs([tmp_path]), "Title").notes
    assert [one for one in notes if "arms were tested on different scans (scratch on 24, mae on 12)" in one]


def test_scores_written_by_the_test_are_those_of_its_predictions(tmp_path: Path):
    folder = write_finetuning(tmp_path, "mae", "mae", 5.0)
    runs = find_runs([tmp_path])
    stored = Scorer([MAP, AP50]).scores(runs)
    path = folder / "test" / "metrics.json"
    metrics = json.loads(path.read_text())
    del metrics["left_out"]
    path.write_text(json.dumps(metrics))
    computed = Scorer([MAP, AP50]).scores(find_runs([tmp_path]))
    for name, one in computed.items():
        assert stored[name].value == pytest.approx(one.value)
        np.testing.assert_allclose(stored[name].without, one.without, atol=1e-6)
        assert stored[name].num_patients_behind == one.num_patients_behind


def test_a_detector_is_no_word_of_its_arm():
    assert base_arm("mae, FCOS, lr 0.1", "FCOS") == "mae, lr 0.1"
    assert base_arm("FCOS", "FCOS") == "FCOS"


def test_range_is_from_lowest_to_highest_and_none_of_one():
    several, one = range_of([0.2, None, 0.4, float("nan")]), range_of([0.2])
    assert (several.value, several.low, several.high) == (pytest.approx(0.3), 0.2, 0.4)
    assert not one.has_interval
    assert not range_of([None]).is_known


@pytest.fixture
def two_arms(tmp_path: Path) -> Path:
    costs = {"compute_hours": 0.5, "flop": 2e9, "energy_kwh": 0.1}
    for seed in (0, 1, 2):
        write_finetuning(tmp_path, f"scratch_{seed}", "scratch", 5.0 + seed, seed=seed, **costs)
        hours = {} if seed else {"compute_hours": 1.5}
        write_finetuning(tmp_path, f"mae_{seed}", "mae", 1.0 + seed, seed=seed, **hours)
    return tmp_path


def test_the_matrix_has_a_column_per_arm_marked_by_its_verdict(two_arms: Path):
    report = make_report(find_runs([two_arms]), "Title")
    assert list(report.matrix.header) == ["data set", "labels", "seeds", "scratch", "mae"]
    (row,) = report.matrix.rows
    assert row[:3] == ["d", "all", "3"]
    assert report.matrix.marks == {(0, 4): "better"}
    assert matrix_table([], [], MAP).rows == []
    assert [one.gist for one in report.short] == ["better"]
    assert report.short[0].headline == "mae against scratch: better on d."


def test_costs_are_summed_and_what_is_not_known_is_said(two_arms: Path):
    runs = find_runs([two_arms])
    rows = {row[1]: row for row in cost_table(runs, arm_labels(runs)).rows}
    assert rows["scratch"][4:9] == ["3", "1.5", "1.50", "6.00e+09", "0.3"]
    assert rows["mae"][6:9] == ["at least 1.50", "-", "unknown"]


def test_errors_and_cases_are_means_over_runs(two_arms: Path):
    """Boxes 5, 6 and 7 voxels beside cubes of 10: IoU 1/3, 1/4, 3/17, all badly placed; 1, 2, 3: found at IoU 0.5."""
    conditions = conditions_of(two_arms)
    table = error_table(conditions)
    gains = {row[2]: str(row[list(table.header).index("localization")]) for row in table.rows}
    assert gains == {"scratch": "1.000 [1.000, 1.000]", "mae": "0.000 [0.000, 0.000]"}
    cases = case_table(conditions)
    assert list(cases.header) == ["case", "objects", "scratch", "mae", "spread"]
    assert len(cases.rows) == 12
    assert str(cases.rows[0][3]) == "1.000"  # IoU 9/11, 2/3, 7/13
