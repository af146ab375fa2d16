from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from medpretrain3d.statistics import ArmScores, detectable_difference, leave_one_out_weights
from medpretrain3d.store.store import Store
from medpretrain3d.study import detectable as detectable_module
from medpretrain3d.study import run_study, spreads
from medpretrain3d.study.design import NOTHING_DECLARED
from medpretrain3d.study.detectable import detectable
from medpretrain3d.study.document import read_study
from medpretrain3d.study.records import Records
from medpretrain3d.study.run import Run, find_runs
from medpretrain3d.study.run_study import plan_study, progress_of
from medpretrain3d.study.spreads import ASSUMED, spread_of
from tests.study.test_progress import finish
from tests.study.test_report import OBJECT, seeds_of
from tests.study.test_undefined_metrics import write_arms


def test_the_spread_of_seeds_is_that_of_runs_that_are_there(tmp_path: Path):
    # IoU of a shift of s voxels of 10 is (10 - s) / (10 + s): 5 of 9 thresholds at 5, 9 at 3, 4 at 6.
    seeds_of(tmp_path, "scratch", [5.0, 5.0, 5.0])
    seeds_of(tmp_path, "mae", [3.0, 6.0, 5.0])
    spread = spread_of(find_runs([tmp_path]), "d", NOTHING_DECLARED)
    # Differences 4/9, -1/9, 0; every scan is like the others.
    assert spread.components.seed == pytest.approx((3**2 + 2**2 + 1**2) / 81 / 2)
    assert (spread.components.scan, spread.components.interaction) == pytest.approx((0, 0))
    assert "measured: 1 pair of arms, 3 seeds in all, runs of demo" in str(spread)
    seeds_of(tmp_path / "more", "scratch", [5.0, 5.0], dataset="e")
    assert spread_of(find_runs([tmp_path]), "e", NOTHING_DECLARED).components == ASSUMED  # of another data set


def test_pilots_that_found_nothing_tell_no_spread(tmp_path: Path):
    for arm in ("scratch", "mae"):  # every box is beside its object, in every seed
        seeds_of(tmp_path, arm, [30.0, 30.0])
        seeds_of(tmp_path / "one", arm, [30.0], dataset="e")
    for data in ("d", "e"):
        spread = spread_of(find_runs([tmp_path]), data, NOTHING_DECLARED)
        assert spread.components == ASSUMED
        assert str(spread).endswith("(assumed, not measured here; 1 pair of arms without any spread left out)")
    seeds_of(tmp_path, "voco", [3.0, 6.0])
    spread = spread_of(find_runs([tmp_path]), "d", NOTHING_DECLARED)
    assert spread.components.seed == pytest.approx((9 - 4) ** 2 / 81 / 2)  # of voco alone, not halved by mae
    assert "measured: 1 pair of arms, 2 seeds in all, runs of demo; 1 pair of arms without" in str(spread)


@pytest.mark.parametrize("objects", [lambda _: [], lambda i: [OBJECT][i:]], ids=["none", "of one scan"])
def test_pilots_whose_metric_does_not_exist_tell_no_spread(tmp_path: Path, objects):
    write_arms(tmp_path, objects)  # without its only scan with an object, recall is of nothing
    assert spread_of(find_runs([tmp_path]), "d", NOTHING_DECLARED).components == ASSUMED


def test_of_one_seed_the_scans_are_measured_and_the_seeds_assumed(monkeypatch):
    found, scans = np.array([[1.0, 0.0] * 6]), tuple(map(str, range(12)))
    weights = leave_one_out_weights(12)
    arm = ArmScores("mae", (0,), found.mean(1), found @ weights.T / 11, scans)
    baseline = ArmScores("scratch", (0,), 0 * arm.values, 0 * arm.without, scans)
    one = SimpleNamespace(scores=arm, baseline_scores=baseline, num_cases=12, seeds=(0,), runs=())
    monkeypatch.setattr(spreads, "paired_differences", lambda *_: ([one], []))
    spread = spread_of([], "d", NOTHING_DECLARED)
    assert (spread.components.seed, spread.components.scan) == (ASSUMED.seed, pytest.approx(12 * 0.5**2 / 11))
    assert "seeds assumed" in str(spread)


def test_a_plan_says_what_can_be_shown_and_by_which_spread(write_study, tmp_path: Path):
    study = read_study(write_study(seeds=5))
    (line,) = detectable(progress_of(study), []).splitlines()
    assert line.startswith("cubes: 5 seeds and 6 test scans allow no verdict")  # all folds pooled: 4 + 2 cases
    seeds_of(tmp_path / "pilot", "scratch", [5.0, 5.0, 5.0], dataset="cubes")
    seeds_of(tmp_path / "pilot", "mae", [3.0, 6.0, 5.0], dataset="cubes")
    spread = spread_of(find_runs([tmp_path / "pilot"]), "cubes", NOTHING_DECLARED)
    assert "measured" in str(spread)
    assert detectable_difference(spread.components, 5, 20) > detectable_difference(ASSUMED, 5, 20)


def test_a_plan_counts_patients_and_not_their_scans(write_study, cubes, monkeypatch):
    study = read_study(write_study(seeds=5))
    store = Store(cubes)
    entries = {one: {**store.entries[one], "patient": f"p{place // 2}"} for place, one in enumerate(store.case_ids)}
    opened = SimpleNamespace(all_splits=store.all_splits, entries=entries)
    monkeypatch.setattr(detectable_module, "open_store", lambda _: opened)
    (line,) = detectable(progress_of(study), []).splitlines()
    num_patients = len({entries[one]["patient"] for one in store.all_splits.held_out})
    assert num_patients < 6
    said = f"cubes: 5 seeds and 6 test scans of {num_patients} patients allow no verdict"
    assert line == f"{said}; wanted at least 2 seeds and 10 patients"
    wanted = {}
    monkeypatch.setattr(
        detectable_module, "detectable_difference", lambda *given, **_: wanted.update(given=given) or 0.1
    )
    assert f"6 test scans of {num_patients} patients show a difference of 0.100" in detectable(progress_of(study), [])
    assert wanted["given"][1:] == (5, num_patients)


@pytest.mark.parametrize("num_seeds", [1, 5])
def test_components_of_groups_of_scans_are_told_as_those_of_scans(monkeypatch, num_seeds):
    # The metric is a mean over 1,000 scans, which are left out in 200 groups of five.
    drawn = np.random.default_rng(0)
    num_scans = 1000
    own = drawn.normal(0, 0.3, (num_seeds, num_scans)) + drawn.normal(0, 0.3, (1, num_scans))
    weights = leave_one_out_weights(num_scans)
    assert weights.shape == (200, 1000)
    seeds, scans = tuple(range(num_seeds)), tuple(map(str, range(num_scans)))
    arm = ArmScores("mae", seeds, own.mean(1), own @ weights.T / weights.sum(1), scans)
    baseline = ArmScores("scratch", seeds, 0 * arm.values, 0 * arm.without, scans)
    one = SimpleNamespace(scores=arm, baseline_scores=baseline, num_cases=num_scans, seeds=seeds, runs=())
    monkeypatch.setattr(spreads, "paired_differences", lambda *_: ([one], []))
    found = spread_of([], "d", NOTHING_DECLARED).components
    if num_seeds == 1:  # in which the spread of a seed on a scan is contained
        assert found.scan == pytest.approx(0.18, rel=0.2)
        return
    assert (found.scan, found.interaction) == pytest.approx((0.09, 0.09), rel=0.2)
    # With seeds that do not differ by themselves: sqrt((0.09 + 0.09 / 5) / 1000) and 2.8 such errors for 80 % power.
    assert detectable_difference(found, num_seeds, num_scans) == pytest.approx(2.8 * 0.0104, rel=0.2)


def test_a_plan_corrects_for_all_that_the_report_asks_at_once(write_study, tmp_path: Path):
    data = dict.fromkeys("uvw", "finetune.yaml")
    detectors = {"x": {}, "y": {"with": {"model.optim.lr": 0.1}}}
    study = read_study(
        write_study(
            data=data, detectors=detectors, hypotheses=[], arms={"scratch": {}, "mae": {"pretrain": "pretrain.yaml"}}
        )
    )
    assert detectable_module._num_asked(study, "u") == study.declaration.num_verdicts == 3 * 2 * 1
    assert study.declaration.num_pooled == 2 * 1
    detectors["y"]["arms"] = ["mae"]  # without the baseline beside it there is no difference
    study = read_study(write_study(data=data, detectors=detectors, hypotheses=["mae > scratch on u"]))
    assert detectable_module._num_asked(study, "u") == 3
    assert study.declaration.num_pooled == 1
    arms = {"scratch": {}, "mae": {"pretrain": "pretrain.yaml"}, "nnunet": {"predictions": "nnunet.json"}}
    study = read_study(write_study(arms=arms, hypotheses=["mae > scratch", "mae >= scratch"], delta=0.02))
    assert detectable_module._num_asked(study, "cubes") == 1  # asked for twice, and one seed of a program is not judged


def test_a_plan_measures_each_run_once(write_study, monkeypatch):
    """A study's folder is looked through for runs of earlier documents: those of this one are there as well."""
    study = read_study(write_study(seeds=1, labels=["all"], folds=[0]))
    for job in progress_of(study).jobs.jobs:
        finish(Records(study), job)
    earlier = study.folder / "earlier"
    shutil.copytree(Records(study).run_folder(progress_of(study).jobs.jobs[-1]), earlier)
    measured: list[Run] = []
    monkeypatch.setattr(run_study, "detectable", lambda _, runs: measured.extend(runs) or "")
    assert plan_study(study) == 0
    names = [run.folder.name for run in measured]
    assert len(names) == len(set(names)) == len(progress_of(study).jobs.jobs) + 1
    assert [run.folder.name for run in measured if run.metadata.stage == "finetune" and run.design is None] == [
        "earlier"
    ]
