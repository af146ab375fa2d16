from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medpretrain3d.inference.clustering import weighted_box_clustering
from tests.oracles import oracle


@pytest.mark.parametrize("index", range(8))
def test_same_clusters_as_nndetection(index):
    case = oracle("weighted_box_clustering")[index]
    boxes, scores, weights, expected = (torch.tensor(case[key]) for key in ("boxes", "scores", "weights", "n_expected"))
    boxes, scores = weighted_box_clustering(
        boxes=boxes, scores=scores, weights=weights, num_expected=expected, iou_threshold=case["iou_threshold"]
    )
    torch.testing.assert_close(boxes, torch.tensor(case["expected_boxes"]), atol=1e-4, rtol=0)
    torch.testing.assert_close(scores, torch.tensor(case["expected_scores"]), atol=1e-5, rtol=0)


def test_two_boxes_by_hand():
    # Seed: a 4-cube scored 0.8. Member: the same cube one voxel further along W, scored 0.4.
    # IoU = 48 / 80 = 0.6. Both have weight 1, so they count 1 and 0.6.
    boxes = torch.tensor([[0.0, 0, 0, 4, 4, 4], [0, 0, 1, 4, 4, 5]])
    scores, ones = torch.tensor([0.8, 0.4]), torch.ones(2)
    merged, score = weighted_box_clustering(boxes, scores, ones, 2 * ones, iou_threshold=0.5)
    assert score.tolist() == pytest.approx([(0.8 + 0.6 * 0.4) / 1.6])
    shift = 0.6 * 0.4 / (0.8 + 0.6 * 0.4)
    assert merged[0].tolist() == pytest.approx([0, 0, shift, 4, 4, 4 + shift])


def test_missing_predictions_lower_the_score_and_not_the_box():
    box = torch.tensor([[0.0, 0, 0, 4, 4, 4]])
    merged, score = weighted_box_clustering(box, torch.tensor([0.8]), torch.tensor([0.3]), torch.tensor([4.0]), 0.5)
    assert score.item() == pytest.approx(0.8 / 4)  # three of four are missing, each counted as the mean weight
    assert torch.equal(merged, box)


def test_more_predictions_than_expected_cost_nothing():
    boxes = torch.tensor([[0.0, 0, 0, 4, 4, 4]]).repeat(3, 1)
    _, score = weighted_box_clustering(boxes, torch.full((3,), 0.5), torch.ones(3), torch.ones(3), 0.5)
    assert score.tolist() == pytest.approx([0.5])


def test_scores_of_zero_keep_the_seed_box():
    boxes = torch.tensor([[0.0, 0, 0, 4, 4, 4], [0, 0, 1, 4, 4, 5]])
    merged, score = weighted_box_clustering(boxes, torch.zeros(2), torch.ones(2), torch.ones(2), 0.5)
    assert torch.equal(merged, boxes[:1])
    assert score.tolist() == [0.0]


def test_nothing_in_nothing_out():
    none = torch.zeros(0)
    boxes, scores = weighted_box_clustering(torch.zeros(0, 6), none, none, none, 0.5)
    assert boxes.shape == (0, 6)
    assert scores.shape == (0,)


@given(st.integers(1, 60), st.integers(0, 10_000), st.floats(0.05, 0.9))
def test_merged_boxes_stay_inside_the_hull_and_scores_below_the_best(count, seed, iou_threshold):
    random = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 3, generator=random) * 20
    boxes = torch.cat([low, low + 1 + torch.rand(count, 3, generator=random) * 10], dim=1)
    scores, weights = torch.rand(count, generator=random), 0.1 + torch.rand(count, generator=random)
    merged, score = weighted_box_clustering(boxes, scores, weights, torch.full((count,), 3.0), iou_threshold)
    assert len(merged) <= count
    assert (merged >= boxes.amin(dim=0) - 1e-3).all()
    assert (merged <= boxes.amax(dim=0) + 1e-3).all()
    assert score.max() <= scores.max() + 1e-6
