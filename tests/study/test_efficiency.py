"""Budgets of labels and of steps: areas, and the share of a budget that an arm needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from medpretrain3d.evaluation.named_metrics import MAP
from medpretrain3d.statistics import Answer, parse_hypothesis
from medpretrain3d.study.answers import answers
from medpretrain3d.study.design import Declaration, StepBudget
from medpretrain3d.study.page import write_report
from medpretrain3d.study.paired_scores import Scorer
from medpretrain3d.study.report import Report, make_report
from medpretrain3d.study.run import Run, find_runs
from medpretrain3d.study.table import Estimate
from medpretrain3d.study.table_files import write_tables
from tests.study.test_report import write_finetuning

# Voxels of 10 that boxes lie beside the objects, by share of the steps: 8, 5, 4, 2 are 1, 5, 7 and 9 of 9 in mAP.
SCRATCH = {0.25: 8.0, 0.5: 5.0, 1.0: 4.0}
MAE = {0.25: 5.0, 0.5: 4.0, 1.0: 2.0}
QUICK = {0.25: 2.0, 0.5: 2.0, 1.0: 2.0}
SLOW = {0.25: 8.0, 0.5: 8.0, 1.0: 5.0}
DECLARED = Declaration(MAP, "all", 0.05)


def write(root: Path, arm: str, shifts: Mapping[float, float | Sequence[float]], num_seeds: int = 3) -> None:
    for share, shift in shifts.items():
        for seed in range(num_seeds):
            of_seed = shift if isinstance(shift, float) else shift[seed]
            write_finetuning(root, f"{arm}-{share:g}-{seed}", arm, of_seed, seed=seed, budget_steps=int(20 * share))


def runs_of(root: Path, own: Mapping[str, StepBudget] | None = None) -> list[Run]:
    """Runs as a study knows them; arms of `own` have steps of their own."""
    found = []
    for run in find_runs([root]):
        arm, share, seed = run.folder.name.split("-")
        design = {"arm": arm, "data": "d", "labels": "all", "seed": seed}
        budget = (own or {}).get(arm)
        if budget is None and share != "1":
            design["steps"] = share
        budget = budget or StepBudget(arm, float(share))
        found.append(replace(run, design=design, step_budget=budget, is_baseline_arm=arm == "scratch"))
    return found


def rows_of(report: Report) -> dict[str, dict[str, object]]:
    names = list(report.efficiency.header)
    return {str(row[0]): dict(zip(names, row, strict=True)) for row in report.efficiency.rows}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for arm, shifts in (("scratch", SCRATCH), ("mae", MAE), ("quick", QUICK), ("slow", SLOW)):
        write(root, arm, shifts)
    return root


@pytest.fixture(scope="module")
def report(root: Path) -> Report:
    return make_report(runs_of(root), "Title", DECLARED)


def test_an_arm_that_needs_half_of_the_steps(report: Report):
    row = rows_of(report)["mae"]
    assert (row["over"], row["budgets"], row["seeds"]) == ("steps, all labels", "0.25, 0.5, 1", "3")
    assert str(row["share needed"]) == "0.500 [0.500, 0.500]"  # with half of them it is where scratch ends
    assert row["seeds that reach it"] == "3 of 3"
    # Heights over log2 n are means of neighbors: (1/9 + 2 * 5/9 + 7/9) / 4 and (5/9 + 2 * 7/9 + 1) / 4.
    area = row["area of mAP"]
    assert isinstance(area, Estimate)
    assert area.value == pytest.approx((28 - 18) / 9 / 4)
    assert row["on the area"] == "better"
    (line,) = [one for one in report.overview if one.startswith("mae, d, all labels, area")]
    assert "area under mAP over log steps (0.25 to 1 of the steps, exploratory): better than scratch" in line
    assert "for what scratch reaches with all of them it needs 0.50 [0.50, 0.50] of the steps." in line


def test_what_is_never_reached_or_there_from_the_start_is_a_bound(report: Report):
    rows = rows_of(report)
    assert str(rows["slow"]["share needed"]) == "1.000"  # at least that: no end from above
    assert rows["slow"]["seeds that reach it"] == "0 of 3, at least"
    assert str(rows["quick"]["share needed"]) == "0.250 [0.000, 0.250]"
    assert rows["quick"]["seeds that reach it"] == "3 of 3, 3 with the smallest budget, at most"
    lines = {line.partition(",")[0]: line for line in report.overview if "over log steps" in line}
    assert "needs at least 1.00 [1.00, inf] of the steps" in lines["slow"]
    assert "needs at most 0.25 [0.00, 0.25] of the steps" in lines["quick"]


def test_arms_that_find_nothing_need_no_share_of_anything(tmp_path: Path):
    for arm in ("scratch", "mae"):
        write(tmp_path, arm, {0.5: 30.0, 1.0: 30.0})
    report = make_report(runs_of(tmp_path), "Title", DECLARED)
    assert "needs" not in str(report)
    assert any("reach 0.000 with every budget" in note for note in report.notes)


def test_the_share_of_each_seed_is_of_its_own_baseline(tmp_path: Path):
    write(tmp_path, "scratch", {0.25: 8.0, 0.5: 5.0, 1.0: (4.0, 5.0, 4.0)})
    write(tmp_path, "mae", MAE)
    row = rows_of(make_report(runs_of(tmp_path), "Title", DECLARED))["mae"]
    share = row["share needed"]
    assert isinstance(share, Estimate)
    assert share.value == pytest.approx((0.5 * 0.25 * 0.5) ** (1 / 3))  # seed 1 of scratch ends where mae is at 0.25
    assert share.has_interval
    assert row["seeds that reach it"] == "3 of 3, 1 with the smallest budget, at most"


def test_shares_of_the_steps_are_never_averaged_and_the_verdict_is_that_of_all_steps(report: Report):
    assert list(report.matrix.header)[:4] == ["data set", "labels", "steps", "seeds"]
    assert [row[2] for row in report.matrix.rows] == ["0.25", "0.5", "1"]
    mae = list(report.matrix.header).index("mae")
    assert [str(row[mae])[:5] for row in report.matrix.rows] == ["0.556", "0.778", "1.000"]
    primary = [row for row in report.differences.rows if "exploratory" not in str(row[-1])]
    assert {(row[0], row[3]) for row in primary} == {("mae", "1"), ("quick", "1"), ("slow", "1")}
    assert {one.partition("(")[0] for one in map(str, report.verdicts) if "0.25 of the steps" in one} == {
        "d, 8 labelled cases, 0.25 of the steps: mae is better than scratch ",
        "d, 8 labelled cases, 0.25 of the steps: quick is better than scratch ",
        "d, 8 labelled cases, 0.25 of the steps: no verdict on slow against scratch ",  # 1 of 9 in all scans
    }


def test_the_page_and_the_files_have_it(report: Report, tmp_path: Path):
    write_report(report, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "What labels and steps are worth" in page
    assert "d, all labels: mAP by steps" in page
    assert "<option>0.25</option>" in page  # the filter
    written = {path.name: path.read_text() for path in write_tables(report, tmp_path / "tables")}
    assert "0.5,0.5,0.5,3 of 3" in written["efficiency.csv"].replace("0.49999999999999994", "0.5")
    assert "0.500 [0.500, 0.500] | 3 of 3 |" in written["efficiency.md"]
    assert r"0.500 [0.500, 0.500] & 3 of 3 \\" in written["efficiency.tex"]
    assert "share needed" in str(report)


def test_an_arm_with_steps_of_its_own_is_a_point_of_the_one_it_is_like(tmp_path: Path):
    write(tmp_path, "scratch", {1.0: 4.0})
    write(tmp_path, "mae", {1.0: 2.0})
    write(tmp_path, "half", {0.5: 2.0})
    runs = runs_of(tmp_path, {"half": StepBudget("mae", 0.5)})
    report = make_report(runs, "Title", DECLARED)
    (row,) = rows_of(report).values()
    assert (row["arm"], row["budgets"], str(row["area of mAP"])) == ("mae", "0.5, 1", "-")  # scratch has one share
    assert str(row["share needed"]) == "0.500 [0.000, 0.500]"
    assert row["seeds that reach it"] == "3 of 3, 3 with the smallest budget, at most"
    assert any("mAP by steps" in figure.title for figure in report.step_figures)


@pytest.mark.parametrize("own", [False, True])
def test_a_share_of_the_steps_is_a_side_of_a_hypothesis(root: Path, tmp_path: Path, own: bool):
    texts = ("mae at 0.5 steps >= scratch", "slow at 0.5 steps >= scratch", "mae > scratch at 0.5 steps")
    if own:
        write(tmp_path, "scratch", {1.0: (4.0, 5.0, 4.0)})
        write(tmp_path, "half", {0.5: (4.0, 5.0, 4.0)})
        runs, texts = runs_of(tmp_path, {"half": StepBudget("mae", 0.5)}), (texts[0], "half >= scratch")
    else:
        runs = runs_of(root)
    declaration = replace(DECLARED, hypotheses=tuple(map(parse_hypothesis, texts)))
    found, missing = answers(declaration, runs, Scorer([MAP]))
    differences = [round(one.links[0].judged.effect.difference * 9) for one in found]
    assert not missing
    if own:
        assert (differences, {one.answer for one in found}) == ([0, 0], {Answer.CONFIRMED})
    else:
        # 7 of 9 in every scan of every seed on both sides of the first: nothing shows how they vary.
        assert [one.answer for one in found] == [Answer.NONE, Answer.REFUTED, Answer.CONFIRMED]
        assert differences == [0, -6, 2]
