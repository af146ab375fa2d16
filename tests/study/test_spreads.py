from __future__ import annotations

from pathlib import Path

import pytest

from medpretrain3d.statistics import detectable_difference
from medpretrain3d.study.design import NOTHING_DECLARED
from medpretrain3d.study.detectable import detectable
from medpretrain3d.study.document import read_study
from medpretrain3d.study.run import find_runs
from medpretrain3d.study.run_study import progress_of
from medpretrain3d.study.spreads import ASSUMED, spread_of
from tests.study.test_report import seeds_of


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


def test_of_one_seed_the_scans_are_measured_and_the_seeds_assumed(tmp_path: Path):
    seeds_of(tmp_path, "scratch", [5.0])
    seeds_of(tmp_path, "mae", [3.0])
    spread = spread_of(find_runs([tmp_path]), "d", NOTHING_DECLARED)
    assert (spread.components.seed, spread.components.scan) == (ASSUMED.seed, pytest.approx(0))
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
