from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from medpretrain3d.evaluation import weightings
from medpretrain3d.evaluation.average_precision import (
    average_precision,
    average_precision_by_scan,
    precision_at_recall,
)
from medpretrain3d.evaluation.bootstrap import scan_weights
from medpretrain3d.evaluation.case_level import area_under_roc
from medpretrain3d.evaluation.cases import PredictedCase, TargetCase
from medpretrain3d.evaluation.data_set import match_data_set
from medpretrain3d.evaluation.froc import froc_curve
from medpretrain3d.evaluation.matching import Matches
from medpretrain3d.evaluation.weightings import blocks

NUM_SCANS = 2000


def data_set(num_scans: int, seed: int = 0) -> Matches:
    """Six detections of each scan, the first three of which are hits, and some of the others ignored."""
    random = np.random.default_rng(seed)
    scan = np.repeat(np.arange(num_scans), 6)
    is_hit = np.tile([True] * 3 + [False] * 3, num_scans)[None]
    is_ignorable = ~is_hit[0] & (random.random(len(scan)) < 0.3)
    scores = random.random(len(scan)).round(2 if num_scans < 100 else 9)  # with ties
    return Matches(scores, scan, is_hit, random.integers(3, 5, num_scans), is_ignorable)


def peak_mb(run) -> float:
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("metric", [average_precision, precision_at_recall, froc_curve])
def test_memory_does_not_grow_with_the_square_of_the_scans(metric):
    # A number per scan and hit would be 96 MB; one per weighting and detection is 0.4.
    matches, weights = data_set(NUM_SCANS), scan_weights(NUM_SCANS, 4, seed=0)
    assert peak_mb(lambda: metric(matches, weights)) < 10


def test_memory_of_the_area_under_roc():
    # A number per positive and negative would be 8 MB, and twice more for both comparisons.
    random = np.random.default_rng(0)
    score, is_positive = random.random(NUM_SCANS), np.arange(NUM_SCANS) % 2 == 0
    weights = scan_weights(NUM_SCANS, 4, seed=0)
    assert peak_mb(lambda: area_under_roc(score, is_positive, weights)) < 2


def test_memory_of_the_scores_of_single_scans():
    box = np.array([[0.0, 0, 0, 4, 4, 4]])
    found = [PredictedCase(str(name), box, np.array([0.9]), np.array([0])) for name in range(NUM_SCANS)]
    wanted = [TargetCase(one.case, box, np.array([0])) for one in found]
    scans = match_data_set(found, wanted, ["nodule"], [0.1])
    assert peak_mb(lambda: scans.case_scores([0])) < 10  # one weighting per scan would be 32 MB


@pytest.mark.parametrize("metric", [average_precision, precision_at_recall, froc_curve])
def test_blocks_of_weightings_give_what_all_at_once_do(metric, monkeypatch):
    matches, weights = data_set(12), scan_weights(12, 9, seed=0)
    at_once = metric(matches, weights)
    monkeypatch.setattr(weightings, "BLOCK", 2 * len(matches.scores))
    assert [len(block) for block in blocks(weights, len(matches.scores))] == [2, 2, 2, 2, 1]
    np.testing.assert_array_equal(metric(matches, weights), at_once)


def test_a_weighting_without_room_is_a_block_of_its_own(monkeypatch):
    monkeypatch.setattr(weightings, "BLOCK", 1)
    assert [block.shape for block in blocks(np.ones((2, 3)), 5)] == [(1, 3), (1, 3)]
    assert [block.shape for block in blocks(np.ones((0, 3)), 5)] == [(0, 3)]


@pytest.mark.parametrize("seed", range(5))
def test_the_precision_of_a_scan_alone_is_that_of_the_data_set_with_this_scan_only(seed):
    matches = data_set(12, seed)
    expected = average_precision(matches, np.eye(12))
    np.testing.assert_allclose(average_precision_by_scan(matches), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_area_under_roc_is_the_mean_over_all_pairs(seed):
    random = np.random.default_rng(seed)
    score, is_positive = random.random(30).round(1), np.arange(30) % 3 == 0
    weights = scan_weights(30, 6, seed)
    is_above = (score[:, None] > score) + 0.5 * (score[:, None] == score)
    pairs = weights[:, :, None] * weights[:, None] * (is_positive[:, None] & ~is_positive)
    expected = (pairs * is_above).sum(axis=(1, 2)) / pairs.sum(axis=(1, 2))
    np.testing.assert_allclose(area_under_roc(score, is_positive, weights), expected, rtol=0, atol=1e-12)
