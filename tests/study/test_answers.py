"""Hypotheses of a study's document meet its runs: two arms of which neither is the baseline, budgets, chains, pools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from medpretrain3d.evaluation.named_metrics import MAP, metric_named
from medpretrain3d.statistics import Answer, Effect, judge, parse_hypothesis
from medpretrain3d.statistics.two_way import VarianceComponents
from medpretrain3d.study.answers import Answered, Comparison, _settled_by, answers
from medpretrain3d.study.design import Declaration
from medpretrain3d.study.paired_scores import Scorer
from medpretrain3d.study.report import make_report
from medpretrain3d.study.run import Run, find_runs
from tests.study.test_report import page_of, write_finetuning

COUNTS = {"2": 2, "4": 4, "all": 8}


def write(
    root: Path, arm: str, shifts: Sequence[float], labels: str = "all", data: str = "d", detector: str = ""
) -> None:
    """Runs of an arm, one a seed, whose boxes are so many voxels of 10 beside the objects."""
    for seed, shift in enumerate(shifts):
        name = "-".join([arm, data, *([detector] if detector else []), labels, str(seed)])
        prefix = "case" if data == "d" else data
        write_finetuning(root, name, arm, shift, COUNTS[labels], seed=seed, dataset=data, case_prefix=prefix)


def runs_of(root: Path) -> list[Run]:
    """The runs as a study knows them: their place in its design is in their names."""
    found = []
    for run in find_runs([root]):
        arm, data, *detector, labels, seed = run.folder.name.split("-")
        design = {"arm": arm, "data": data, "labels": labels, "seed": seed}
        design |= {"detector": detector[0]} if detector else {}
        found.append(replace(run, design=design, is_baseline_arm=arm == "scratch"))
    return found


def declared(*hypotheses: str, delta: float | None = 0.05, metric: str = "mAP", labels: str = "all") -> Declaration:
    return Declaration(metric_named(metric), labels, delta, tuple(map(parse_hypothesis, hypotheses)))


def answered(root: Path, *hypotheses: str, **settings: object) -> list[Answered]:
    declaration = declared(*hypotheses, **settings)  # type: ignore[arg-type]
    return answers(declaration, runs_of(root), Scorer([declaration.metric]))[0]


def test_two_arms_of_which_neither_is_the_baseline(tmp_path: Path):
    write(tmp_path, "scratch", [5.0, 5.0, 5.0])
    write(tmp_path, "multitalent", [4.0, 4.0, 4.0])
    write(tmp_path, "mae", [2.0, 2.0, 2.0])
    found = answered(tmp_path, "mae > multitalent", "multitalent > mae", "scratch < mae")
    assert [one.answer for one in found] == [Answer.CONFIRMED, Answer.REFUTED, Answer.CONFIRMED]
    assert found[0].links[0].judged.effect.difference == pytest.approx(2 / 9)  # IoU 8 / 12 and 6 / 14: 9 and 7 of 9
    assert found[1].links[0].judged.effect.difference == pytest.approx(-2 / 9)


def test_a_budget_is_that_of_the_hypothesis_and_otherwise_the_primary_one(tmp_path: Path):
    best = [3.0, 4.0, 3.0]  # 9, 7 and 9 of 9 thresholds
    for labels, scratch, mae in (("2", [8.0] * 3, [5.0] * 3), ("4", [5.0] * 3, best), ("all", best, best)):
        write(tmp_path, "scratch", scratch, labels)
        write(tmp_path, "mae", mae, labels)
    hypotheses = ("mae > scratch at 2", "mae > scratch", "mae at 4 >= scratch at all", "mae at 2 >= scratch at all")
    found = answered(tmp_path, *hypotheses)
    assert [one.answer for one in found] == [Answer.CONFIRMED, Answer.EQUIVALENT, Answer.CONFIRMED, Answer.REFUTED]
    assert [round(one.links[0].judged.effect.difference * 9) for one in found] == [4, 0, 0, -3]
    (one,) = answered(tmp_path, "mae > scratch", labels="4")
    assert (one.answer, round(one.links[0].judged.effect.difference * 9)) == (Answer.CONFIRMED, 3)


def test_a_chain_has_an_answer_and_each_of_its_links(tmp_path: Path):
    for arm, shift in (("scratch", 5.0), ("mae", 4.0), ("det", 2.0)):
        write(tmp_path, arm, [shift] * 3)
    up, down = answered(tmp_path, "det > mae > scratch", "det > scratch > mae")
    assert (up.answer, [link.answer for link in up.links]) == (Answer.CONFIRMED, [Answer.CONFIRMED] * 2)
    assert (down.answer, [link.answer for link in down.links]) == (Answer.REFUTED, [Answer.CONFIRMED, Answer.REFUTED])


def test_an_inconclusive_one_says_what_size_of_study_would_settle_it(tmp_path: Path):
    write(tmp_path, "scratch", [5.0, 5.0, 5.0])
    write(tmp_path, "mae", [3.0, 6.0, 5.0])  # better, worse, alike
    (one,) = answered(tmp_path, "mae > scratch", delta=0.1)
    assert one.answer is Answer.INCONCLUSIVE
    words = one.links[0].settled_by
    assert words.startswith("about ")
    assert "seeds on these 12 scans" in words
    assert words.endswith("would settle it (80 % power for a difference of 0.1)")
    write(tmp_path, "voco", [3.0] * 3)
    (clear,) = answered(tmp_path, "voco > scratch")
    assert (clear.answer, clear.links[0].settled_by) == (Answer.CONFIRMED, "")


def test_what_would_settle_it_counts_patients_and_not_their_scans():
    (link,) = parse_hypothesis("mae > scratch").links
    effect = Effect("mae > scratch", 0.05, 0.06, 3.0, num_seeds=3, num_scans=60, of_patients=20)
    compared = Comparison(link, effect, VarianceComponents(0.02**2, 0.15**2, 0.0), num_groups=20)
    (judged,) = judge([effect], delta=0.1)
    words = _settled_by(compared, judged)
    assert words == _settled_by(
        replace(compared, effect=replace(effect, num_scans=20, of_patients=None)), judged
    ).replace("scans", "patients")
    assert "seeds on these 20 patients" in words


@pytest.mark.parametrize("shift", [30.0, 0.0], ids=["nothing", "everything"])
def test_arms_that_both_find_nothing_or_everything_are_not_known_to_be_alike(tmp_path: Path, shift: float):
    for arm in ("scratch", "mae"):
        write(tmp_path, arm, [shift] * 2)
    report = make_report(runs_of(tmp_path), "Title", declared("mae = scratch", "mae >= scratch", "mae > scratch"))
    assert [one.gist for one in (*report.answers, *report.verdicts)] == ["no verdict"] * 4
    for one in (*report.answers, *report.verdicts):
        assert "oth at the limit of the metric: nothing is known of the difference" in one.numbers
        assert "[" not in one.numbers
    assert "[+0.000, +0.000]" not in str(report)
    # 12 of 12 scans agree, in every seed: what one run knows is [0, 0.265] or [0.735, 1].
    for cell in report.matrix.rows[0][-2:]:
        assert str(cell) == ("0.000 [0.000, 0.265]" if shift else "1.000 [0.735, 1.000]")


def test_one_seed_has_no_answer(tmp_path: Path):
    write(tmp_path, "scratch", [5.0])
    write(tmp_path, "mae", [0.0])
    (one,) = answered(tmp_path, "mae > scratch")
    assert one.answer is Answer.NONE
    assert "says nothing about the method" in one.links[0].judged.reason


def test_seeds_are_paired_and_one_that_an_arm_lacks_is_left_out(tmp_path: Path):
    write(tmp_path, "scratch", [5.0, 5.0, 5.0])
    write(tmp_path, "mae", [4.0, 4.0])
    (one,) = answered(tmp_path, "mae > scratch")
    assert one.links[0].judged.effect.num_seeds == 2


def test_data_sets_and_detectors_have_answers_of_their_own_and_three_data_sets_a_pooled_one(tmp_path: Path):
    for data in ("a", "b", "c"):
        for detector in ("fcos", "detr"):
            write(tmp_path, "scratch", [5.0] * 2, data=data, detector=detector)
        write(tmp_path, "mae", [2.0] * 2, data=data, detector="fcos")
    found = answered(tmp_path, "mae > scratch", "mae > scratch on b")
    assert [(str(one.hypothesis), one.data, one.detector) for one in found] == [
        *(("mae > scratch", data, "fcos") for data in ("a", "b", "c", "")),
        ("mae > scratch on b", "b", "fcos"),
    ]
    assert found[3].links[0].judged.effect.num_data_sets == 3
    assert {one.answer for one in found} == {Answer.CONFIRMED}


def test_a_data_set_that_a_pooled_answer_is_without_is_named(tmp_path: Path):
    for data, shifts in (("a", (5.0, 2.0)), ("b", (5.0, 2.0)), ("c", (5.0, 2.0)), ("e", (30.0, 30.0))):
        for arm, shift in zip(("scratch", "mae"), shifts, strict=True):
            write(tmp_path, arm, [shift] * 2, data=data)
    found, said = answers(declared("mae > scratch"), runs_of(tmp_path), Scorer([MAP]))
    assert [one.links[0].judged.effect.num_data_sets for one in found] == [1, 1, 1, 1, 3]
    (line,) = said
    assert line.startswith("hypothesis 'mae > scratch': mae > scratch is pooled without e, where the difference has no")


def test_names_of_one_store_are_not_several_data_sets(tmp_path: Path):
    for data in ("a", "b", "c"):
        write(tmp_path, "scratch", [5.0] * 2, data=data)
        write(tmp_path, "mae", [2.0] * 2, data=data)
    declaration = declared("mae > scratch")
    runs = [replace(run, metadata=replace(run.metadata, data_fingerprint="one")) for run in runs_of(tmp_path)]
    found, said = answers(declaration, runs, Scorer([MAP]))
    assert [one.data for one in found] == ["a", "b", "c"]
    assert said == ["hypothesis 'mae > scratch': not pooled over 3 data sets: a and b are of one store"]


def in_folds(root: Path, prefixes: Sequence[str]) -> list[Run]:
    """Runs of two arms and seeds in folds whose test scans are named so."""
    for arm, shifts in (("scratch", (5.0, 4.0)), ("mae", (2.0, 2.0))):
        for seed, shift in enumerate(shifts):
            for fold, prefix in enumerate(prefixes):
                name = f"{arm}-{fold}-{seed}"
                write_finetuning(root, name, arm, shift, seed=seed, fold=fold, case_prefix=prefix)
    found = []
    for run in find_runs([root]):
        arm, fold, seed = run.folder.name.split("-")
        design = {"arm": arm, "data": "d", "labels": "all", "seed": seed, "fold": fold}
        found.append(replace(run, design=design, is_baseline_arm=arm == "scratch"))
    return found


def test_a_scan_that_several_folds_are_tested_on_is_one_scan(tmp_path: Path):
    declaration = declared("mae > scratch")
    runs = in_folds(tmp_path / "one", ["case"] * 3)
    (one,), said = answers(declaration, runs, Scorer([MAP]))
    effect = one.links[0].judged.effect
    assert (effect.num_seeds, effect.num_scans, effect.difference, said) == (2, 12, pytest.approx(3 / 9), [])
    report = make_report(runs, "Title", declaration)
    assert "0.667 [0.000, 1.000]" in str(report.matrix)  # the mean over folds, and its interval over seeds and scans
    apart = answers(declaration, in_folds(tmp_path / "apart", ["a", "b", "c"]), Scorer([MAP]))[0]
    assert apart[0].links[0].judged.effect.num_scans == 36
    # c10 and c11 are scans 10 and 11 of the first fold, and 0 and 1 of the second.
    (_, said) = answers(declaration, in_folds(tmp_path / "part", ["c", "c1"]), Scorer([MAP]))
    assert any("its folds share a part of their test scans ('c10')" in one for one in said)


def test_hypotheses_of_one_data_set_are_corrected_together(tmp_path: Path):
    write(tmp_path, "scratch", [5.0, 5.0, 5.0])
    for arm in ("a", "b", "c"):
        write(tmp_path, arm, [3.0, 6.0, 5.0])
    (alone,) = answered(tmp_path, "a > scratch")
    together = answered(tmp_path, "a > scratch", "b > scratch", "c > scratch")
    p_values = [one.links[0].judged.corrected_p_value for one in (alone, together[0])]
    assert p_values[1] == pytest.approx(min(1.0, 3 * p_values[0]))
    twice = answered(tmp_path, "a > scratch", "a = scratch", "a >= scratch")  # one comparison, asked for three times
    assert twice[0].links[0].judged.corrected_p_value == pytest.approx(p_values[0])


def test_an_interim_report_corrects_for_the_arms_that_are_still_to_come(tmp_path: Path):
    write(tmp_path, "scratch", [5.0, 5.0, 5.0])
    write(tmp_path, "mae", [4.0, 2.0, 2.0])

    def p_value(num_verdicts: int) -> str:
        report = make_report(runs_of(tmp_path), "Title", replace(declared(), num_verdicts=num_verdicts))
        return next(str(row[-2]) for row in report.differences.rows if row[0] == "mae")

    early, unknown = p_value(3), p_value(0)
    for arm in ("a", "b"):
        write(tmp_path, arm, [3.0, 6.0, 5.0])
    assert early == p_value(3) == p_value(0)
    assert float(early) == pytest.approx(3 * float(unknown), abs=2e-4)


def test_one_question_in_other_words_is_one_question(tmp_path: Path):
    write(tmp_path, "scratch", [5.0, 5.0, 5.0])
    write(tmp_path, "mae", [3.0, 6.0, 5.0])
    found = answered(tmp_path, "mae > scratch", "mae > scratch at all", "scratch < mae", "scratch > mae")
    judged = [one.links[0].judged for one in found]
    assert {one.num_asked for one in judged} == {1}
    assert [one.effect.difference > 0 for one in judged] == [True, True, False, False]
    assert judged[2].interval == pytest.approx((-judged[0].interval[1], -judged[0].interval[0]))


def test_what_is_declared_and_not_run_yet_is_corrected_for(tmp_path: Path):
    write(tmp_path, "scratch", [5.0, 5.0, 5.0])
    write(tmp_path, "a", [3.0, 6.0, 5.0])
    hypotheses = [parse_hypothesis(text) for text in ("a > scratch", "b > scratch", "b > scratch on e")]
    places = {one: (("e", ""),) if one.data else (("d", ""), ("e", "")) for one in hypotheses}
    declaration = replace(declared("a > scratch", "b > scratch", "b > scratch on e"), places=places)
    (one,), said = answers(declaration, runs_of(tmp_path), Scorer([MAP]))
    assert one.links[0].judged.num_asked == 2
    assert len(said) == 2
    (alone,) = answered(tmp_path, "a > scratch")
    assert one.links[0].judged.corrected_p_value == pytest.approx(min(1.0, 2 * alone.links[0].judged.corrected_p_value))


@pytest.mark.parametrize("fact", ["precision", "data_fingerprint"])
def test_runs_that_differ_in_more_than_their_arm_are_no_pair(tmp_path: Path, fact: str):
    write(tmp_path, "scratch", [5.0] * 3)
    for seed in range(3):
        write_finetuning(tmp_path, f"mae-d-all-{seed}", "mae", 2.0, 8, seed=seed, dataset="d", **{fact: "other"})
    declaration = declared("mae > scratch")
    found, said = answers(declaration, runs_of(tmp_path), Scorer([MAP]))
    assert found == []
    assert said[0].endswith(f"mae-d-all-0: not compared with demo/scratch-d-all-0: differs in {fact} other and -")


def test_the_headline_of_a_chain_has_the_number_of_the_link_that_decides(tmp_path: Path):
    for arm, shift in (("scratch", 5.0), ("mae", 4.0), ("det", 2.0)):
        write(tmp_path, arm, [shift] * 3)
    report = make_report(runs_of(tmp_path), "Title", declared("mae > det > scratch"))
    assert str(report.short[0]) == "mae > det > scratch: refuted on d. mae > det, mAP -0.222 [-0.222, -0.222]."


def test_what_needs_a_delta_shows_the_interval_that_answers_it(tmp_path: Path):
    write(tmp_path, "scratch", [5.0, 5.0, 5.0])
    write(tmp_path, "mae", [3.0, 6.0, 5.0])
    report = make_report(runs_of(tmp_path), "Title", declared("mae > scratch", "mae >= scratch"))
    more, less = report.answers
    assert "after Holm (1 question)" in more.numbers
    assert "90% interval, delta 0.05" in less.numbers
    assert "Holm" not in less.numbers
    in_short = report.short[1].numbers  # at the top of the page it stood beside the 95 % interval
    assert "90% interval, delta 0.05" in in_short
    assert less.numbers.startswith(in_short.removesuffix("."))


def test_what_is_not_tested_yet_is_said(tmp_path: Path):
    write(tmp_path, "scratch", [5.0, 5.0])
    declaration = declared("mae > scratch")
    found, said = answers(declaration, runs_of(tmp_path), Scorer([MAP]))
    assert (found, said) == ([], ["hypothesis 'mae > scratch': not answered, no tested runs of both sides yet"])


@pytest.mark.parametrize("metric", ["AP50", "AP70", "AP10", "FROC", "CPM", "AP_center", "mAR"])
def test_the_primary_metric_is_that_of_verdicts_table_ranking_and_baselines(tmp_path: Path, metric: str):
    for arm, shifts in (("scratch", [5.0, 6.0]), ("mae", [1.0, 2.0]), ("simclr", [3.0, 4.0])):
        write(tmp_path, arm, shifts)
    report = make_report(runs_of(tmp_path), "Title", declared("mae > simclr", delta=None, metric=metric))
    assert metric in report.results.header
    assert report.differences.header[5] == metric
    assert report.differences.header[-1] == f"on {metric}"
    assert f"{metric} +" in report.answers[0].numbers
    assert all(f"{metric} " in one.numbers for one in report.verdicts)
    (ranking,) = [line for line in report.overview if "ranking" in line]
    assert f"ranking by {metric} when" in ranking
    column = list(report.results.header).index(metric)
    values = {row[0]: row[column].value for row in report.results.rows}  # type: ignore[union-attr]
    means = {arm: (values[f"demo/{arm}-d-all-0"] + values[f"demo/{arm}-d-all-1"]) / 2 for arm in ("scratch", "mae")}
    difference = next(row for row in report.differences.rows if row[0] == "mae")[5]
    assert difference.value == pytest.approx(means["mae"] - means["scratch"])  # type: ignore[union-attr]


def test_the_page_shows_the_hypotheses_first(tmp_path: Path):
    root = tmp_path / "runs"
    write(root, "scratch", [5.0, 5.0, 5.0])
    write(root, "mae", [2.0, 2.0, 2.0])
    report = make_report(runs_of(root), "Title", declared("mae > scratch"))
    assert report.answers[0].headline == "mae > scratch: confirmed (d; 3 seeds, 12 test cases)."
    assert str(report).index("Hypotheses:") < str(report).index("mae is better than scratch")
    assert "What was expected" not in page_of(root)  # of runs alone, without a study
