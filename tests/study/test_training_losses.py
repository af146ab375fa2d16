"""Training losses of arms beside their baseline's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy import stats

from medpretrain3d.study.report import make_report
from medpretrain3d.study.run import find_runs

from .test_report import write_run, write_test

NUM_STEPS = 8
HEAD_START = (-0.4, -0.2, 0.0, 0.1)
NOISE = (-0.03, 0.0, 0.06)  # of seeds


def write_losses(root: Path, arm: str, seed: int, losses: list[float], num_steps: int = NUM_STEPS, **columns: float):
    rows = [{"step": step, "train/loss": loss, **columns} for step, loss in enumerate(losses)]
    facts = {"stage": "finetune", "paradigm": arm, "dataset": "d", "seed": seed, "steps": num_steps}
    folder = write_run(root, f"{arm}_{seed}", rows, num_train_cases=8, budget_steps=num_steps, **facts)
    write_test(folder, 5.0)


def rows_of(root: Path) -> list[list[object]]:
    return [list(row) for row in make_report(find_runs([root]), "Title").training_losses.rows]


def test_differences_of_quarters_are_paired_by_seed(tmp_path: Path):
    for seed, noise in enumerate(NOISE):
        whole = [1.0 + seed] * NUM_STEPS  # what seeds share tells arms apart by nothing
        write_losses(tmp_path, "scratch", seed, whole)
        write_losses(tmp_path, "mae", seed, [1.0 + seed + noise + HEAD_START[step // 2] for step in range(NUM_STEPS)])
    ((arm, data, labels, seeds, *quarters),) = rows_of(tmp_path)
    assert (arm, data, labels, seeds) == ("mae", "d", "8", "3")
    half = stats.t.ppf(0.975, 2) * stats.sem(NOISE)
    for found, expected in zip(quarters, HEAD_START, strict=True):
        assert found.value == pytest.approx(expected + 0.01)
        assert (found.low, found.high) == pytest.approx((expected + 0.01 - half, expected + 0.01 + half))


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_of_one_seed_or_of_seeds_without_spread_there_is_no_interval(tmp_path: Path, num_seeds: int):
    for seed in range(num_seeds):
        write_losses(tmp_path, "scratch", seed, [1.0] * NUM_STEPS)
        write_losses(tmp_path, "mae", seed, [0.5] * NUM_STEPS)
    ((*_, last),) = rows_of(tmp_path)
    assert str(last) == "-0.500"


def test_what_is_logged_beside_the_losses_does_not_part_runs_of_two_versions(tmp_path: Path):
    write_losses(tmp_path, "scratch", 0, [1.0] * NUM_STEPS)
    write_losses(tmp_path, "mae", 0, [0.5] * NUM_STEPS, **{"train/grad_norm": 3.0})
    ((*_, last),) = rows_of(tmp_path)
    assert str(last) == "-0.500"


@pytest.mark.parametrize("how", ["other losses", "steps without a loss"])
def test_losses_that_are_no_numbers_of_one_kind_are_not_compared(tmp_path: Path, how: str):
    write_losses(tmp_path, "scratch", 0, [1.0] * NUM_STEPS)
    if how == "other losses":
        write_losses(tmp_path, "mae", 0, [0.5] * NUM_STEPS, **{"train/consistency": 0.1})
    else:
        write_losses(tmp_path, "mae", 0, [0.5] * (NUM_STEPS // 2))
    assert rows_of(tmp_path) == []


def test_seeds_that_begin_from_one_encoder_are_one_draw(tmp_path: Path):
    """Six seeds of three encoders, each with its own luck: the interval is that of three means."""
    of_encoders, of_seeds = (0.0, 0.3, -0.15), (0.01, -0.01)
    for number, luck in enumerate(of_encoders):
        write_run(tmp_path, f"pre_{number}", [], stage="pretrain", paradigm="mae", seed=number)
        begun = {"checkpoint_sha256": f"{number}" * 12, "pretrain_run": f"demo/pre_{number}"}
        for repeat, noise in enumerate(of_seeds):
            seed = number + len(of_encoders) * repeat
            write_losses(tmp_path, "scratch", seed, [1.0] * NUM_STEPS)
            write_losses(tmp_path, "mae", seed, [0.5 + luck + noise] * NUM_STEPS)
            run = tmp_path / "demo" / f"mae_{seed}" / "run.json"
            run.write_text(json.dumps(json.loads(run.read_text()) | begun))
    (row,) = make_report(find_runs([tmp_path]), "Title").training_losses.rows
    *_, seeds, _, _, _, last = row
    assert seeds == "6 of 3 encoders"
    half = stats.t.ppf(0.975, 2) * stats.sem(of_encoders)
    assert (last.value, last.low, last.high) == pytest.approx((-0.45, -0.45 - half, -0.45 + half))
