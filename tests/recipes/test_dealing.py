"""Whole volumes are dealt out by their size."""

from __future__ import annotations

import random

from finetune.dealing import deal, dealt_out, most_cases
from medpretrain3d.store.corpus import Corpus


def test_the_largest_go_first_each_to_whom_has_least():
    # One long scan and three short ones in turns: 90 + 10 against 10 + 10. By size: 90 against 30.
    assert deal([90, 10, 10, 10], 2) == [[0], [1, 2, 3]]
    assert deal([5, 4, 3, 3, 3], 2) == [[0, 3], [1, 2, 4]]


def test_each_is_dealt_once_and_no_hand_has_more_than_a_third_above_its_share():
    draw = random.Random(0)
    for num_hands in (1, 2, 3, 8):
        sizes = [draw.randrange(1, 1000) for _ in range(100)]
        hands = deal(sizes, num_hands)
        assert sorted(index for hand in hands for index in hand) == list(range(100))
        assert max(sum(sizes[index] for index in hand) for hand in hands) <= 4 / 3 * sum(sizes) / num_hands


def test_more_processes_than_cases_and_none_at_all():
    assert deal([3, 2], 4) == [[0], [1], [], []]
    assert deal([], 2) == [[], []]


def test_cases_of_a_process_are_in_their_order(cube_store):
    cases = Corpus([cube_store]).cases("all")
    parts = [dealt_out(cases, rank, 3) for rank in range(3)]
    ids = [case.case_id for case in cases]
    for part in parts:
        places = [ids.index(case.case_id) for case in part]
        assert places == sorted(places)
    assert sorted(case.case_id for part in parts for case in part) == sorted(ids)
    assert most_cases(cases, 3) == max(map(len, parts)) == 3
