from __future__ import annotations

import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.statistics import Answer, Effect, Hypothesis, judge, parse_hypothesis
from medpretrain3d.statistics.hypotheses import RELATIONS, Link, Side
from medpretrain3d.statistics.verdicts import Judgement


def judged(difference: float, error: float = 0.01, delta: float | None = 0.02, seeds: int = 5) -> Judgement:
    return judge([Effect("it", difference, error, 1000.0, num_seeds=seeds, num_scans=100)], delta)[0]


def answer(text: str, *args: float, **settings: float) -> Answer:
    (link,) = parse_hypothesis(text).links
    return link.answer(judged(*args, **settings))


@pytest.mark.parametrize(
    ("text", "written", "links"),
    [
        ("mae > scratch", "mae > scratch", [("mae", None, ">", "scratch", None)]),
        (" voco=scratch ", "voco = scratch", [("voco", None, "=", "scratch", None)]),
        ("mae > scratch at 2", "mae at 2 > scratch at 2", [("mae", "2", ">", "scratch", "2")]),
        ("mae at 4 >= scratch at all", "mae at 4 >= scratch at all", [("mae", "4", ">=", "scratch", "all")]),
        ("mae at 0.5 >= scratch", "mae at 0.5 >= scratch", [("mae", "0.5", ">=", "scratch", None)]),
        ("a<=b", "a <= b", [("a", None, "<=", "b", None)]),
        (
            "mae at 0.5 steps >= scratch",
            "mae at 0.5 steps >= scratch",
            [("mae", None, 0.5, ">=", "scratch", None, None)],
        ),
        (
            "mae > scratch at .5 steps on sts",
            "mae at 0.5 steps > scratch at 0.5 steps on sts",
            [("mae", None, 0.5, ">", "scratch", None, 0.5)],
        ),
        (
            "mae at 1 steps>scratch at 0.5 steps",
            "mae at 1 steps > scratch at 0.5 steps",
            [("mae", None, 1.0, ">", "scratch", None, 0.5)],
        ),
        (
            "mae at 0.25 steps > scratch at 4",
            "mae at 4 at 0.25 steps > scratch at 4",
            [("mae", "4", 0.25, ">", "scratch", "4", None)],
        ),
        (
            "det > mae > scratch at 2 on sts",
            "det at 2 > mae at 2 > scratch at 2 on sts",
            [("det", "2", ">", "mae", "2"), ("mae", "2", ">", "scratch", "2")],
        ),
        ("mae at 2 > mae at 1", "mae at 2 > mae at 1", [("mae", "2", ">", "mae", "1")]),
    ],
)
def test_what_can_be_written(text, written, links):
    found = parse_hypothesis(text)
    assert str(found) == written
    middle = [next(place for place, word in enumerate(one) if word in RELATIONS) for one in links]
    wanted = [Link(Side(*one[:at]), one[at], Side(*one[at + 1 :])) for one, at in zip(links, middle, strict=True)]
    assert list(found.links) == wanted
    assert parse_hypothesis(written) == found


@pytest.mark.parametrize(
    "text",
    [
        *("", "mae", "mae is better", "> scratch", "mae >", "mae > > scratch", "mae at > scratch", "mae > scratch at"),
        *(
            "mae > scratch on",
            "mae > scratch on a b",
            "mae > scratch at 2 3",
            "mae at half steps > scratch",
            "mae at 2 steps at 0.5 > scratch",
            "mae == scratch",
            "mae => scratch",
        ),
        *(
            "mae > mae",
            "mae at 2 > mae at 2",
            "mae > mae at 2",
            "a > b > a",
            "mae at 1 steps > mae",
            "a > b < c",
            "a = b > c",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(text):
    with pytest.raises(UserError, match="hypothesis '") as caught:
        parse_hypothesis(text)
    assert "\n" not in str(caught.value)


def test_a_difference_is_confirmed_refuted_equivalent_or_inconclusive():
    assert answer("a > b", 0.05) is answer("a < b", -0.05) is Answer.CONFIRMED
    assert answer("a > b", -0.05) is answer("a < b", 0.05) is Answer.REFUTED
    assert answer("a > b", 0.003) is answer("a < b", 0.003) is Answer.EQUIVALENT  # 0.003 + 1.646 * 0.01 < 0.02
    assert answer("a > b", 0.015) is answer("a < b", 0.015) is Answer.INCONCLUSIVE
    assert answer("a > b", 0.9, seeds=1) is Answer.NONE


def test_equality_is_confirmed_within_delta_also_of_a_small_difference_that_is_there():
    assert answer("a = b", 0.003) is Answer.CONFIRMED
    assert answer("a = b", 0.01, 0.002) is Answer.CONFIRMED  # better, and by less than delta
    assert answer("a = b", 0.05) is answer("a = b", -0.05) is Answer.REFUTED
    assert answer("a = b", 0.01) is Answer.INCONCLUSIVE
    assert answer("a = b", 0.0, seeds=1) is Answer.NONE
    assert answer("a = b", 0.015, 0.005) is Answer.INCONCLUSIVE  # a difference is there, and it may be within delta
    assert answer("a = b", 0.03, 0.005) is Answer.REFUTED  # 0.03 - 1.646 * 0.005 > 0.02


def test_not_worse_is_where_the_interval_of_90_percent_lies_above_minus_delta():
    assert answer("a >= b", -0.003) is Answer.CONFIRMED  # -0.003 - 1.646 * 0.01 > -0.02
    assert answer("a >= b", -0.004) is Answer.INCONCLUSIVE
    assert answer("a >= b", 0.3) is Answer.CONFIRMED
    assert answer("a >= b", -0.037) is Answer.REFUTED  # -0.037 + 1.646 * 0.01 < -0.02
    assert answer("a >= b", -0.01, 0.002) is Answer.CONFIRMED  # worse, and by less than delta
    assert answer("a <= b", 0.003) is Answer.CONFIRMED
    assert answer("a <= b", 0.037) is Answer.REFUTED
    assert answer("a >= b", 0.3, delta=None) is Answer.INCONCLUSIVE


def test_a_chain_holds_where_every_link_does():
    yes, no, alike, open_, none = Answer
    assert Hypothesis.combined([yes, yes]) is yes
    assert Hypothesis.combined([yes, open_]) is open_
    assert Hypothesis.combined([open_, no, yes]) is no
    assert Hypothesis.combined([alike, open_]) is alike
    assert Hypothesis.combined([none, yes]) is none
