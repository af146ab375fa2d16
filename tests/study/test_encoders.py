"""Seeds that begin from one encoder are one draw of its pretraining."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from medpretrain3d.statistics import ArmScores, Verdict, arm_effect, pool
from medpretrain3d.study import detectable as detectable_module
from medpretrain3d.study.detectable import detectable
from medpretrain3d.study.document import read_study
from medpretrain3d.study.encoders import alike_in_encoder
from medpretrain3d.study.report import Report, make_report
from medpretrain3d.study.run import find_runs
from medpretrain3d.study.run_study import _head, progress_of
from tests.study.test_report import write_finetuning, write_run

SCRATCH, GOOD, FAIR = 5.0, 2.0, 4.0  # shifts with 5, 9 and 7 of 9 thresholds


def report_of(root: Path, encoders: list[int]) -> Report:
    """Runs from scratch and of mae, whose encoder is good or fair by its number."""
    for number in set(encoders):
        write_run(root, f"pre_{number}", [{"step": 1, "train/loss": 1.0}], stage="pretrain", paradigm="mae")
    for seed, number in enumerate(encoders):
        write_finetuning(root, f"scratch_{seed}", "scratch", SCRATCH, seed=seed)
        begun = {"checkpoint_sha256": f"{number}" * 12, "pretrain_run": f"demo/pre_{number}"}
        write_finetuning(root, f"mae_{seed}", "mae", (GOOD, FAIR, GOOD)[number], seed=seed, **begun)
    runs = []
    for run in find_runs([root]):
        arm, _, seed = run.folder.name.partition("_")
        own = {"arm": arm, "data": "d", "labels": "all", "seed": seed}
        design = None if run.metadata.stage == "pretrain" else own
        runs.append(replace(run, design=design, is_baseline_arm=arm == "scratch"))
    return make_report(runs, "Title")


def test_six_seeds_of_two_encoders_are_two_draws(tmp_path: Path):
    report = report_of(tmp_path, [0, 1, 0, 1, 0, 1])
    (finding,) = report.verdicts
    # Encoders differ from scratch by 4/9 and 2/9: mean 3/9, standard error 1/9, t of 1 degree of freedom is 12.706.
    assert finding.gist == Verdict.INCONCLUSIVE
    assert "6 seeds of 2 encoders" in finding.headline
    assert f"mAP +0.333 [{3 / 9 - 12.706 / 9:+.3f}, {3 / 9 + 12.706 / 9:+.3f}]" in finding.numbers
    (row,) = report.differences.rows
    assert row[list(report.differences.header).index("seeds")] == "6 of 2 encoders"
    # The arm's own number rests on two draws as well, where six that are alike gave [0.769, 1.000].
    scratch, mae = report.matrix.rows[0][-2:]
    assert (str(scratch), str(mae)) == ("0.556 [0.254, 0.829]", "0.889 [0.000, 1.000]")
    assert not [note for note in report.notes if "one encoder" in note]


def test_seeds_with_encoders_of_their_own_or_one_in_common_are_as_many_draws(tmp_path: Path):
    own, common = report_of(tmp_path / "own", [0, 1, 2]), report_of(tmp_path / "common", [0, 0, 0])
    assert all("(3 seeds, " in one.verdicts[0].headline for one in (own, common))
    assert common.verdicts[0].gist == Verdict.BETTER
    (note,) = (note for note in common.notes if "one encoder" in note)
    assert note.startswith("mae: 3 seeds begin from one encoder, so what is said of it holds for that encoder")
    assert not [note for note in own.notes if "one encoder" in note]


def test_of_two_arms_the_one_with_fewer_encoders_counts(tmp_path: Path):
    def run(encoder: str | None, fold: int = 0) -> SimpleNamespace:
        return SimpleNamespace(metadata=SimpleNamespace(checkpoint_sha256=encoder, pretrain_run=None, fold=fold))

    several = {seed: [[run("abc"[seed % 3])], [run("de"[seed % 2])]] for seed in range(6)}
    assert alike_in_encoder(several) == {0: 0, 1: 1, 2: 0, 3: 1, 4: 0, 5: 1}  # type: ignore[arg-type]
    # A pretraining that leaves the cases of each fold out makes an encoder for each.
    folds = {seed: [[run(f"{seed % 2}{fold}", fold) for fold in (0, 1)], [run(None)] * 2] for seed in range(4)}
    assert alike_in_encoder(folds) == {0: 0, 1: 1, 2: 0, 3: 1}  # type: ignore[arg-type]
    assert alike_in_encoder({}) == {}


def test_means_of_seeds_keep_how_many_they_are():
    drawn = np.random.default_rng(0).normal(0.5, 0.1, (5, 12))
    scans = tuple(map(str, range(12)))
    arm = ArmScores("mae", (0, 1, 2, 3, 4), drawn.mean(1), (drawn.sum(1, keepdims=True) - drawn) / 11, scans)
    mean = arm.averaged({0: 0, 1: 1, 2: 0, 3: 1, 4: 0})
    assert (mean.seeds, mean.num_averaged) == ((0, 1), (3, 2))
    assert mean.pseudo == pytest.approx(np.stack([drawn[::2].mean(0), drawn[1::2].mean(0)]))
    assert arm.averaged({seed: seed for seed in range(5)}) is arm
    effect = arm_effect(mean, replace(mean, name="scratch"))
    assert (effect.num_seeds, effect.num_finetuning_seeds) == (2, 5)
    one = arm_effect(mean.of_seeds([1]), replace(mean, name="scratch"))
    assert (one.num_seeds, one.num_finetuning_seeds) == (1, 2)
    assert pool([effect, effect, effect]).effect.num_finetuning_seeds == 5


@pytest.mark.parametrize(
    ("seeds", "pretrain_seeds", "said", "num_draws"),
    [(6, 2, "6 seeds of 2 encoders", 2), (6, 1, "6 seeds", 6), (3, 9, "3 seeds", 3), ([0, 2, 4], 2, "3 seeds", 3)],
)
def test_a_plan_counts_the_encoders_that_are_made(write_study, monkeypatch, seeds, pretrain_seeds, said, num_draws):
    study = read_study(write_study(seeds=seeds, pretrain_seeds=pretrain_seeds, labels=["all"]))
    num_made = len({seed % pretrain_seeds for seed in study.seeds})
    per_arm = f"{num_made} encoders per" if num_made > 1 else "one encoder per"
    assert f"{per_arm} pretrained arm" in _head(study)
    given: list[int] = []
    monkeypatch.setattr(
        detectable_module, "detectable_difference", lambda _, draws, *rest, **of: given.append(draws) or 0.1
    )
    assert detectable(progress_of(study), []).startswith(f"cubes: {said} and ")
    assert given == [num_draws]
