from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from medpretrain3d.study.design import NOTHING_DECLARED
from medpretrain3d.study.report import make_report
from medpretrain3d.study.run import find_runs
from tests.study.test_report import page_of, seeds_of, write_finetuning


def lines_of(root: Path) -> list[str]:
    return make_report(find_runs([root]), "Title").overview


def test_nothing_is_summed_up_of_one_arm_at_one_budget(tmp_path: Path):
    seeds_of(tmp_path / "runs", "scratch", [5.0, 5.0])
    seeds_of(tmp_path / "runs", "mae", [2.0, 2.0])
    assert lines_of(tmp_path / "runs") == []


def test_budgets_are_one_area_and_a_ratio_of_labels(tmp_path: Path):
    root = tmp_path / "runs"
    for labels, scratch, mae in ((2, 8.0, 5.0), (4, 5.0, 3.0), (8, 3.0, 2.0)):
        for seed in (0, 1, 2):
            write_finetuning(root, f"scratch_{labels}_{seed}", "scratch", scratch, labels, seed=seed)
            write_finetuning(root, f"mae_{labels}_{seed}", "mae", mae, labels, seed=seed)
    (line,) = lines_of(root)
    assert line.startswith("mae, d, area under mAP over log labels (2 to 8 labels, exploratory): better than scratch")
    # With 2 labels mae is where scratch is with 4, and with 4 where it is with 8.
    assert "at 2 labels it needs 0.50 [0.50, 0.50] of the budget; at 4 labels it needs 0.50 [0.50, 0.50]" in line
    assert "needs 0.50" in page_of(root)


def test_three_data_sets_are_pooled_and_two_are_not(tmp_path: Path):
    root = tmp_path / "runs"
    for name in ("a", "b", "c"):
        for seed in (0, 1):
            for arm, shift in (("scratch", 5.0), ("mae", 2.0)):
                write_finetuning(root, f"{arm}_{name}{seed}", arm, shift, dataset=name, seed=seed, case_prefix=name)
    of_two = [run for run in find_runs([root]) if run.metadata.dataset != "c"]
    assert make_report(of_two, "Title").overview == []
    (line,) = lines_of(root)
    assert line.startswith("mae, over 3 data sets: better than scratch")
    assert "SD between them 0.000" in line


def write_data(root: Path, data: str, folds: Sequence[int] = (0,), case_prefix: str = "", **facts: object) -> None:
    """Two arms with three seeds in each fold, all of which are tested on the same scans."""
    for fold in folds:
        for arm, shifts in (("scratch", (5.0, 5.0, 4.0)), ("mae", (2.0, 2.0, 1.0))):
            for seed, shift in enumerate(shifts):
                name = f"{arm}_{data}_{fold}_{seed}"
                own = {"dataset": data, "fold": fold, "seed": seed, "case_prefix": case_prefix or data, **facts}
                write_finetuning(root, name, arm, shift, **own)


@pytest.mark.parametrize("fingerprint", [None, "f"])
def test_folds_on_one_test_set_are_one_data_set(tmp_path: Path, fingerprint: str | None):
    for_sure = {"data_fingerprint": fingerprint} if fingerprint else {}
    write_data(tmp_path, "a", folds=(0, 1, 2), **for_sure)
    assert not [line for line in lines_of(tmp_path) if "data sets" in line]
    write_data(tmp_path, "b")
    write_data(tmp_path, "c")
    (line,) = lines_of(tmp_path)
    assert line.startswith("mae, over 3 data sets: better than scratch")
    # Each has 4/9, 4/9 and 2/9, the folds of a averaged: with five effects its weight would be three of five.
    assert "mAP +0.370" in line
    shutil.rmtree(tmp_path / "demo" / "mae_a_2_0")
    assert "over 3 data sets" in lines_of(tmp_path)[0]  # by the two seeds that have all folds


def test_data_sets_that_share_test_scans_are_not_pooled(tmp_path: Path):
    write_data(tmp_path, "a", data_fingerprint="1")
    write_data(tmp_path, "b", data_fingerprint="2")
    write_data(tmp_path, "coarse", case_prefix="a", data_fingerprint="3")
    (line,) = lines_of(tmp_path)
    assert line == "mae: not pooled over 3 data sets: a and coarse share 12 test scans."
    for path in (tmp_path / "demo").glob("*coarse*/test/targets.json"):  # scans of one name are not the same scans
        path.write_text(path.read_text().replace("[10.0, 10, 10, 20, 20, 20]", "[70.0, 10, 10, 80, 20, 20]"))
    assert "over 3 data sets" in lines_of(tmp_path)[0]


def test_arms_are_ranked_with_how_often_each_is_first(tmp_path: Path):
    root = tmp_path / "runs"
    for arm, shift in (("scratch", 5.0), ("mae", 2.0), ("simclr", 4.0)):
        seeds_of(root, arm, [shift, shift])
    (line,) = lines_of(root)
    assert "seeds and scans are drawn anew: mae" in line
    assert line.index("mae ") < line.index("simclr ") <= line.index("scratch ")
    assert "mae 1.000 (first in 100%), simclr 0.778 (first in 0%), scratch 0.556" in line  # 9, 7 and 5 of 9 IoUs


def test_one_run_each_is_ranked_with_the_words_that_it_says_nothing(tmp_path: Path):
    for arm, shift in (("scratch", 5.0), ("mae", 2.0), ("simclr", 4.0)):
        seeds_of(tmp_path / "runs", arm, [shift])
    (line,) = lines_of(tmp_path / "runs")
    assert "scans of one run each, which say nothing of methods" in line


def test_an_arm_that_is_on_all_data_sets_first_is_corrected_for_those_to_come(tmp_path: Path):
    for data in ("a", "b", "c"):
        write_data(tmp_path, data)
    runs = find_runs([tmp_path])
    (alone,) = make_report(runs, "Title").overview
    (one_of_three,) = make_report(runs, "Title", replace(NOTHING_DECLARED, num_pooled=3)).overview
    assert "after Holm (1 question)" in alone
    assert "after Holm (3 questions)" in one_of_three


def test_a_data_set_that_is_left_out_of_the_pool_is_named(tmp_path: Path):
    for data in ("a", "b", "c"):
        write_data(tmp_path, data)
    for arm in ("scratch", "mae"):  # both find nothing on the fourth
        for seed in (0, 1, 2):
            own = {"dataset": "dark", "seed": seed, "case_prefix": "dark"}
            write_finetuning(tmp_path, f"{arm}_dark_{seed}", arm, 30.0, **own)
    (line,) = lines_of(tmp_path)
    assert line.startswith("mae, over 3 data sets: better than scratch")
    assert (
        "; without dark, where the difference has no interval (fewer than 10 patients, both arms at one limit" in line
    )
