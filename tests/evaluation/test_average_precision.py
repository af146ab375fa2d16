from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpretrain3d.evaluation.average_precision import average_precision
from medpretrain3d.evaluation.matching import Matches

ONCE = np.ones((1, 1))


def one_scan(hits, num_targets):
    """Detections of one scan by falling score."""
    scores = np.linspace(0.9, 0.1, len(hits))
    return Matches(scores, np.zeros(len(hits), int), np.array([hits], dtype=bool), np.array([num_targets]))


def test_hit_miss_hit_on_three_objects():
    # Precision 1 up to recall 1/3 (34 of the 101 levels), 2/3 up to recall 2/3 (33 more), 0 beyond: 34 + 22 of 101.
    assert average_precision(one_scan([1, 0, 1], 3), ONCE)[0, 0] == pytest.approx(56 / 101)


def test_a_miss_above_the_hit_halves_the_precision():
    assert average_precision(one_scan([0, 1], 1), ONCE)[0, 0] == pytest.approx(1 / 2)


def test_all_found_without_a_false_positive_is_1_and_nothing_found_is_0():
    assert average_precision(one_scan([1, 1], 2), ONCE)[0, 0] == 1
    assert average_precision(one_scan([0, 0], 2), ONCE)[0, 0] == 0
    assert average_precision(one_scan([], 2), ONCE)[0, 0] == 0


def test_without_objects_it_is_undefined():
    assert np.isnan(average_precision(one_scan([0], 0), ONCE)[0, 0])


def test_one_of_25_objects_reaches_four_levels_as_in_nndetection():
    # 0, 0.01, 0.02, 0.03; in float32 1/25 stays below 0.04.
    assert average_precision(one_scan([1], 25), ONCE)[0, 0] == pytest.approx(4 / 101)


@st.composite
def matched_scans(draw):
    """Up to five scans, with distinct scores and no more hits than objects, and a weight for each."""
    num_scans = draw(st.integers(1, 5))
    scan = draw(st.lists(st.integers(0, num_scans - 1), max_size=12))
    hits = draw(st.lists(st.booleans(), min_size=len(scan), max_size=len(scan)))
    missed = draw(st.lists(st.integers(0, 3), min_size=num_scans, max_size=num_scans))
    order = draw(st.permutations(range(len(scan))))
    weights = draw(st.lists(st.integers(0, 3), min_size=num_scans, max_size=num_scans))
    found = np.bincount(np.array(scan, int)[np.array(hits, bool)], minlength=num_scans)
    scores = (np.array(order, float) + 1) / (len(scan) + 1)
    matches = Matches(scores, np.array(scan, int), np.array([hits], bool).reshape(1, -1), found + np.array(missed))
    return matches, np.array(weights)


@settings(deadline=None)
@given(matched_scans())
def test_a_scan_of_weight_two_counts_as_two_scans(drawn):
    matches, weights = drawn
    copies = np.repeat(np.arange(len(weights)), weights)
    index = [np.nonzero(matches.scan == scan)[0] for scan in copies]
    joined = np.concatenate([np.zeros(0, int), *index])
    repeated = Matches(
        matches.scores[joined],
        np.repeat(np.arange(len(copies)), [len(one) for one in index]),
        matches.is_hit[:, joined],
        matches.num_targets[copies],
    )
    expected = average_precision(repeated, np.ones((1, len(copies))))
    np.testing.assert_allclose(average_precision(matches, weights[None].astype(float)), expected)


@settings(deadline=None)
@given(matched_scans())
def test_it_is_the_mean_over_101_levels_of_the_best_precision_beyond(drawn):
    matches, _ = drawn
    hits = matches.is_hit[0][np.argsort(-matches.scores)]
    total = matches.num_targets.sum()
    points = [(hits[:n].sum() / total, hits[:n].sum() / n) for n in range(1, len(hits) + 1)] if total else []
    levels = [max((p for r, p in points if r >= level), default=0.0) for level in np.linspace(0, 1, 101)]
    value = average_precision(matches, np.ones((1, len(matches.num_targets))))[0, 0]
    if total == 0:
        assert np.isnan(value)
    else:
        # float32 recalls may miss a level: 1/101 for each hit at most.
        assert value == pytest.approx(np.mean(levels), abs=1e-6 if total < 10 else hits.sum() / 101 + 1e-6)


def of_pycocotools(hits, num_targets):
    """Its arithmetic: float64 recall and precision, the envelope, and at each level the first point at or beyond."""
    true, false = np.cumsum(np.array(hits, float)), np.cumsum(1 - np.array(hits, float))
    recall, precision = true / num_targets, true / (true + false + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0.0, 1.0, 101), side="left")
    return np.append(precision, 0.0)[at].mean()


def test_recall_in_float64_reaches_the_levels_of_pycocotools():
    rng = np.random.default_rng(0)
    differs = 0
    for num_targets in range(1, 101):
        hits = rng.uniform(size=num_targets + 20) < 0.5
        hits[np.cumsum(hits) > num_targets] = False
        matches, expected = one_scan(hits, num_targets), of_pycocotools(hits, num_targets)
        assert average_precision(matches, ONCE, np.float64)[0, 0] == pytest.approx(expected, abs=1e-9)
        differs += abs(average_precision(matches, ONCE)[0, 0] - expected) > 1e-4
    assert differs > 5
    assert average_precision(one_scan([1], 25), ONCE, np.float64)[0, 0] == pytest.approx(5 / 101)
