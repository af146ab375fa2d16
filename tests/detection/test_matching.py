from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medpretrain3d.boxes import box_iou
from medpretrain3d.detection.anchors import AnchorGrid
from medpretrain3d.detection.matching import (
    ATSSMatcher,
    IoUMatcher,
    ignore_background,
    nearest_cells,
    nearest_cells_on_device,
)
from medpretrain3d.detection.point_matching import CenterSampling
from medpretrain3d.errors import UserError
from tests.oracles import oracle


def matched_by(matcher, targets, grid, shapes, strides):
    anchors = grid(shapes, strides, "cpu")
    return matcher(torch.as_tensor(targets), anchors, grid.per_level(shapes), grid.per_cell), anchors


@pytest.mark.parametrize("index", [0, 1, 2])
def test_without_the_guarantee_the_matches_are_those_of_nndetection(index):
    case = oracle("atss_matching")[index]
    targets, anchors = torch.tensor(case["gt"]), torch.tensor(case["anchors"])
    expected = {int(anchor): target for anchor, target in case["matched"].items()}
    arguments = (targets, anchors, case["anchors_per_level"], case["anchors_per_location"])
    published = ATSSMatcher(case["num_candidates"], guarantee_match=False)(*arguments)
    assert {a: t for a, t in enumerate(published.tolist()) if t >= 0} == expected

    guaranteed = ATSSMatcher(case["num_candidates"])(*arguments)
    changed = torch.nonzero(guaranteed != published)[:, 0]
    left_out = set(range(len(targets))) - set(expected.values())
    assert sorted(guaranteed[changed].tolist()) == sorted(left_out)  # one anchor each for the objects that had none


def test_threshold_by_hand():
    # Six cells in a row, anchors 2 long. Candidates of [0, 2) are cells 0 to 3: IoU 1, 0, 0, 0, so the threshold is
    # 0.25 + 0.5 and only the first is positive.
    grid = AnchorGrid([[(2, 2, 2)]])
    matched, _ = matched_by(ATSSMatcher(4), [[0.0, 0, 0, 2, 2, 2]], grid, [(6, 1, 1)], [(2, 2, 2)])
    assert matched.tolist() == [0, -1, -1, -1, -1, -1]


def test_an_anchor_wanted_by_two_goes_to_the_higher_iou():
    grid = AnchorGrid([[(4, 4, 4)]])
    targets = [[0.0, 0, 0, 3, 4, 4], [0, 0, 0, 4, 4, 4]]
    for guarantee_match in (False, True):
        matched, _ = matched_by(ATSSMatcher(1, guarantee_match), targets, grid, [(1, 1, 1)], [(4, 4, 4)])
        assert matched.tolist() == [1]


def test_equal_claims_go_to_the_first_object():
    grid = AnchorGrid([[(4, 4, 4)]])
    targets = [[0.0, 0, 0, 4, 4, 4]] * 3
    matched, _ = matched_by(ATSSMatcher(1), targets, grid, [(1, 1, 1)], [(4, 4, 4)])
    assert matched.tolist() == [0]


def test_an_object_that_lost_its_anchor_gets_the_next_best():
    grid = AnchorGrid([[(4, 4, 4), (8, 4, 4)]])
    targets = [[0.0, 0, 0, 4, 4, 4], [0, 0, 0, 3, 4, 4]]
    anchors = grid([(1, 1, 1)], [(4, 4, 4)], "cpu")
    assert box_iou(torch.tensor(targets), anchors).tolist() == [[1, 0.5], [0.75, 0.375]]
    published, _ = matched_by(ATSSMatcher(1, guarantee_match=False), targets, grid, [(1, 1, 1)], [(4, 4, 4)])
    assert published.tolist() == [-1, -1]  # of two candidates none exceeds mean + unbiased deviation
    guaranteed, _ = matched_by(ATSSMatcher(1), targets, grid, [(1, 1, 1)], [(4, 4, 4)])
    assert guaranteed.tolist() == [0, 1]


def test_an_object_between_anchors():
    # Anchors of 1 voxel at the centres of cells of 8: the object at the corner of four cells touches none of them.
    grid = AnchorGrid([[(1, 1, 1)]])
    targets = [[7.5, 7.5, 3.5, 8.7, 8.7, 4.5]]
    shapes, strides = [(4, 4, 1)], [(8, 8, 8)]
    published, anchors = matched_by(ATSSMatcher(4, guarantee_match=False), targets, grid, shapes, strides)
    assert box_iou(torch.tensor(targets), anchors).max() == 0
    assert (published == 0).sum() == 4  # all candidates, none of which touches the object
    guaranteed, _ = matched_by(ATSSMatcher(4), targets, grid, shapes, strides)
    assert torch.nonzero(guaranteed == 0).tolist() == [[5]]  # the nearest: its centre is (12, 12, 4)


def test_an_object_that_touches_no_candidate_gets_the_best_of_all_anchors():
    # Two small anchors pass the object by; a long one whose centre is farther away holds it.
    anchors = torch.tensor([[0.0, 0, 0, 2, 2, 2], [4, 0, 0, 6, 2, 2], [2.0, 0, 0, 22, 2, 2]])
    target = torch.tensor([[2.2, 0.5, 0.5, 3.4, 1.5, 1.5]])  # centre 2.8: 1 and 5 are nearer than 12
    assert ATSSMatcher(2, guarantee_match=False)(target, anchors, [3], 1).tolist() == [0, 0, -1]
    assert ATSSMatcher(2)(target, anchors, [3], 1).tolist() == [-1, -1, 0]


def test_an_object_whose_candidates_stay_below_the_threshold_gets_the_best():
    # Half of the candidates have IoU 1/3, half 0: mean 1/6, unbiased deviation 0.19, threshold 0.36 > 1/3.
    grid = AnchorGrid([[(2, 2, 2)]])
    target = [[3.0, 0, 0, 5, 2, 2]]
    published, _ = matched_by(ATSSMatcher(4, guarantee_match=False), target, grid, [(4, 1, 1)], [(2, 2, 2)])
    assert published.tolist() == [-1] * 4
    guaranteed, _ = matched_by(ATSSMatcher(4), target, grid, [(4, 1, 1)], [(2, 2, 2)])
    assert guaranteed.tolist() in ([-1, 0, -1, -1], [-1, -1, 0, -1])


corner, size = st.integers(0, 26), st.integers(1, 20)
boxes = st.lists(st.tuples(corner, corner, corner, size, size, size), min_size=1, max_size=6)


@given(boxes)
@settings(max_examples=50, deadline=None)
def test_every_object_is_served_and_anchors_that_do_not_touch_are_rare(numbers):
    targets = torch.tensor([[d, h, w, d + a, h + b, w + c] for d, h, w, a, b, c in numbers], dtype=torch.float32)
    grid = AnchorGrid([[(4, 4, 4), (6, 6, 6)], [(10, 10, 10), (16, 16, 16)]])
    matched, anchors = matched_by(ATSSMatcher(), targets, grid, [(12, 12, 12), (6, 6, 6)], [(4, 4, 4), (8, 8, 8)])
    positive = torch.nonzero(matched >= 0)[:, 0]
    assert set(matched[positive].tolist()) == set(range(len(targets)))
    overlap = box_iou(targets, anchors)
    touches = overlap[matched[positive], positive] > 0
    assert touches.all()  # the anchors of this grid cover the volume without gaps


@pytest.mark.parametrize(
    ("matcher", "num_objects"),
    [(ATSSMatcher(), 40), (ATSSMatcher(), 512), (CenterSampling(), 40), (CenterSampling(), 200)],
)
def test_every_object_of_a_crowd_is_served_while_anchors_are_free(matcher, num_objects):
    anchors = AnchorGrid([[(4, 4, 4)]])([(8, 8, 8)], [(2, 2, 2)], "cpu")
    center = 7 + 2 * torch.rand(num_objects, 3, generator=torch.Generator().manual_seed(0))
    matched = matcher(torch.cat([center - 2, center + 2], dim=1), anchors, [512], 1)
    assert set(matched[matched >= 0].tolist()) == set(range(num_objects))


def test_more_objects_than_anchors_leave_no_anchor_free():
    anchors = AnchorGrid([[(4, 4, 4)]])([(1, 1, 2)], [(4, 4, 4)], "cpu")
    objects = torch.tensor([[0.0, 0, 0, 4, 4, 4]]).expand(3, 6)
    assert len(set(ATSSMatcher()(objects, anchors, [2], 1).tolist())) == 2


def test_no_objects_is_all_background():
    grid = AnchorGrid([[(4, 4, 4)]])
    for matcher in (ATSSMatcher(), IoUMatcher()):
        matched, _ = matched_by(matcher, torch.zeros(0, 6), grid, [(2, 2, 2)], [(4, 4, 4)])
        assert matched.tolist() == [-1] * 8


def test_iou_thresholds_by_hand():
    anchors = torch.tensor([[0.0, 0, 0, 10, 1, 1], [0, 0, 0, 5, 1, 1], [0, 0, 0, 4.5, 1, 1], [0, 0, 0, 3, 1, 1]])
    target = torch.tensor([[0.0, 0, 0, 10, 1, 1]])  # IoU 1, 0.5, 0.45, 0.3
    assert IoUMatcher()(target, anchors, [4], 1).tolist() == [0, 0, -2, -1]


def test_a_lower_threshold_above_the_upper_one_is_refused():
    with pytest.raises(UserError, match=r"IoUMatcher: got low 0\.8 and high 0\.5.*at most 0\.5"):
        IoUMatcher(low=0.8, high=0.5)
    assert IoUMatcher(low=0.5, high=0.5).low == 0.5  # nothing is ignored


def test_the_best_of_poor_anchors_counts_only_when_allowed():
    anchors = torch.tensor([[0.0, 0, 0, 3, 1, 1], [0, 0, 0, 2, 1, 1]])
    targets = torch.tensor([[0.0, 0, 0, 10, 1, 1], [50, 50, 50, 60, 60, 60]])  # the second touches nothing
    assert IoUMatcher()(targets, anchors, [2], 1).tolist() == [0, -1]
    assert IoUMatcher(allow_low_quality=False)(targets, anchors, [2], 1).tolist() == [-1, -1]


def test_the_best_anchor_of_two_objects_goes_to_the_one_it_fits_better_whatever_their_order():
    anchors = torch.tensor([[0.0, 0, 0, 8, 8, 8], [20, 20, 20, 28, 28, 28]])
    targets = torch.tensor([[0.0, 0, 0, 6, 6, 5], [0, 0, 0, 3, 3, 8]])  # IoU 0.35 and 0.14 with the first anchor
    assert IoUMatcher()(targets, anchors, [2], 1).tolist() == [0, -1]
    assert IoUMatcher()(targets.flip(0), anchors, [2], 1).tolist() == [1, -1]
    assert IoUMatcher()(targets[[1, 0, 0]], anchors, [2], 1).tolist() == [1, -1]  # of equal ones the first


def test_ignored_are_background_anchors_with_their_centre_or_half_of_them_in_a_region():
    anchors = torch.tensor(
        [
            [0.0, 0, 0, 4, 4, 4],  # centre inside, a quarter of it
            [2, 0, 0, 10, 1, 1],  # half of it, its centre on the far side
            [3, 0, 0, 11, 1, 1],  # three of eight
            [0, 0, 0, 6, 2, 1],  # inside, but an object's own
            [50, 50, 50, 60, 60, 60],  # far away, but the matcher would give it to the region
        ]
    )
    matched, as_objects = torch.tensor([-1, -1, -1, 0, -1]), torch.tensor([-1, -1, -1, -1, 0])
    region = torch.tensor([[0.0, 0, 0, 6, 3, 3]])
    assert ignore_background(matched, anchors, region, as_objects).tolist() == [-2, -2, -1, 0, -2]


@pytest.mark.parametrize("nearest", [nearest_cells, nearest_cells_on_device])
def test_nearest_cells_agree_with_sorting_all_distances(nearest):
    random = torch.Generator().manual_seed(0)
    cells = AnchorGrid([[(4, 4, 4)]])([(9, 11, 13)], [(4, 4, 4)], "cpu")
    centers = torch.rand(70, 3, generator=random) * 50
    centers[0] = torch.tensor([8.0, 8, 8])  # eight cells are equally near: the first come first
    distance = ((cells[None, :, :3] + cells[None, :, 3:]) / 2 - centers[:, None]).square().sum(dim=2)
    for count in (1, 4, 27):
        expected = distance.argsort(dim=1, stable=True)[:, :count]
        assert nearest(centers, cells, count, block=32).tolist() == expected.tolist()
    assert nearest(centers, cells[:3], 5).shape == (70, 3)


def test_levels_that_do_not_add_up_are_refused():
    with pytest.raises(UserError, match="8 anchors: give the number of anchors on each level"):
        ATSSMatcher()(torch.zeros(0, 6), torch.zeros(8, 6), [4], 2)


@pytest.mark.parametrize("matcher", [ATSSMatcher(), ATSSMatcher(guarantee_match=False), IoUMatcher()])
def test_images_are_matched_together_as_one_by_one(matcher):
    random = torch.Generator().manual_seed(0)
    grid, shapes = AnchorGrid([[(6, 6, 6), (6, 9, 9)], [(12, 12, 12), (12, 18, 18)]]), [(6, 4, 8), (3, 2, 4)]
    anchors = grid(shapes, [(4, 4, 4), (8, 8, 8)], "cpu")
    targets = []
    for count in (3, 0, 40, 1):  # forty are so many that they take anchors of each other
        center, half = torch.rand(count, 3, generator=random) * 24, torch.rand(count, 3, generator=random) * 5 + 0.2
        targets.append(torch.cat([center - half, center + half], dim=1))
    together = matcher.match_images(targets, anchors, grid.per_level(shapes), grid.per_cell)
    for found, boxes in zip(together, targets, strict=True):
        assert found.equal(matcher(boxes, anchors, grid.per_level(shapes), grid.per_cell))
        assert (found >= 0).any() == (len(boxes) > 0)
