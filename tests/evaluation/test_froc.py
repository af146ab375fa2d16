from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpretrain3d.evaluation.froc import FALSE_POSITIVES_PER_SCAN, froc_curve
from medpretrain3d.evaluation.matching import Matches


def curve_of(scores, hits, num_targets, scan=None, weights=None):
    """The curve over `len(num_targets)` scans; all detections in the first unless said otherwise."""
    scan = np.zeros(len(scores), int) if scan is None else np.array(scan)
    matches = Matches(np.array(scores, float), scan, np.array([hits], bool), np.array(num_targets))
    weights = np.ones(len(num_targets)) if weights is None else np.array(weights, float)
    return froc_curve(matches, weights[None])[0, 0].tolist()


def test_five_detections_in_four_scans():
    # score  hit  false per scan  sensitivity (4 objects)
    #  0.9   yes      0              1/4
    #  0.8   no       1/4            1/4
    #  0.7   yes      1/4            2/4
    #  0.6   no       1/2            2/4
    #  0.5   yes      1/2            3/4
    # At 1/8 the curve is on its first level, at 1/4 on its second, from 1/2 on its last.
    curve = curve_of([0.9, 0.8, 0.7, 0.6, 0.5], [1, 0, 1, 0, 1], [1, 1, 1, 1], scan=[0, 1, 1, 2, 3])
    assert FALSE_POSITIVES_PER_SCAN == (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
    assert curve == pytest.approx([1 / 4, 2 / 4, 3 / 4, 3 / 4, 3 / 4, 3 / 4, 3 / 4])
    assert np.mean(curve) == pytest.approx(9 / 14)


def test_scans_without_objects_count_in_the_rate():
    # One false positive before the hit: 1 per scan in one scan, 1/8 in eight.
    assert curve_of([0.9, 0.8], [0, 1], [1]) == [0, 0, 0, 1, 1, 1, 1]
    assert curve_of([0.9, 0.8], [0, 1], [1] + [0] * 7) == [1, 1, 1, 1, 1, 1, 1]


def test_equal_scores_enter_together_on_a_slope():
    # One hit and one false positive of one score in one scan: from (0, 0) straight to (1, 1).
    assert curve_of([0.5, 0.5], [1, 0], [1]) == pytest.approx([1 / 8, 1 / 4, 1 / 2, 1, 1, 1, 1])
    assert curve_of([0.5, 0.5], [0, 1], [1]) == pytest.approx([1 / 8, 1 / 4, 1 / 2, 1, 1, 1, 1])


def test_no_detections_no_hits_no_objects():
    assert curve_of([], [], [2]) == [0] * 7
    assert curve_of([0.5], [0], [2]) == [0] * 7
    assert np.isnan(curve_of([0.5], [0], [0])).all()


def test_of_no_scans_nothing_is_known_and_nothing_is_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(curve_of([0.5, 0.4], [0, 1], [1], weights=[0])).all()


def test_a_hit_after_the_fifth_of_147_false_positives_in_five_scans_rounds_as_in_nndetection():
    def at_rate_1(num_false):
        hits = [0] * 5 + [1] + [0] * (num_false - 5)
        return curve_of(np.linspace(1, 0, len(hits)), hits, [1, 0, 0, 0, 0])[3]

    assert at_rate_1(147) == 0
    assert at_rate_1(146) == 1


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.2, 0.4, 0.6, 0.8]), st.booleans(), st.integers(0, 2)), max_size=12),
    st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any),
)
def test_a_scan_of_weight_two_counts_as_two_scans(detections, weights):
    scores, hits, scan = ([one[part] for one in detections] for part in range(3))
    num_targets = 1 + np.bincount(np.array(scan, int)[np.array(hits, bool)], minlength=3)
    copies = np.repeat(np.arange(3), weights)
    index = [np.nonzero(np.array(scan, int) == one)[0] for one in copies]
    joined = np.concatenate([np.zeros(0, int), *index])
    expected = curve_of(
        np.array(scores)[joined],
        np.array(hits, bool)[joined],
        num_targets[copies],
        scan=np.repeat(np.arange(len(copies)), [len(one) for one in index]),
    )
    weighted = curve_of(scores, hits, num_targets, scan=np.array(scan, int), weights=weights)
    np.testing.assert_allclose(weighted, expected)
    assert np.all(np.diff(weighted) >= 0)
