from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medpretrain3d.boxes import (
    Detections,
    Targets,
    batched_nms,
    box_iou,
    box_volume,
    classwise_nms,
    clip_boxes,
    generalized_box_iou,
    mirror_boxes,
    nms,
    overlap,
    paired_iou,
)
from medpretrain3d.boxes.suppression import blocked_nms, suppress
from medpretrain3d.errors import UserError
from tests.host_waits import DEVICE, CountingDevice
from tests.oracles import oracle


def box(*corners):
    return torch.tensor([corners], dtype=torch.float32)


@st.composite
def box_lists(draw, max_size=12):
    """(N, 6) boxes with whole-number corners, edges of at least one voxel."""
    count = draw(st.integers(1, max_size))
    low = draw(st.lists(st.tuples(*[st.integers(-8, 8)] * 3), min_size=count, max_size=count))
    edge = draw(st.lists(st.tuples(*[st.integers(1, 8)] * 3), min_size=count, max_size=count))
    low, edge = torch.tensor(low), torch.tensor(edge)
    return torch.cat([low, low + edge], dim=1).float()


def test_a_cube_of_three_voxels_has_volume_27():
    assert box_volume(box(1, 1, 1, 4, 4, 4)).tolist() == [27]


def test_a_box_with_swapped_corners_has_no_volume():
    assert box_volume(box(0, 5, 0, 2, 3, 2)).tolist() == [0]


def test_volumes_of_half_precision_boxes_are_computed_in_float32():
    # 301 is no bf16 number: the subtraction 300 - (-1) would give 300.
    assert box_volume(box(-1, 0, 0, 300, 1, 1).bfloat16()).tolist() == [301]


def test_iou_of_cubes_shifted_by_half_their_edge():
    cube = box(0, 0, 0, 2, 2, 2)
    assert box_iou(cube, cube + 1).item() == pytest.approx(1 / 15)  # 1 shared voxel of 8 + 8 - 1


def test_boxes_that_touch_share_nothing():
    assert box_iou(box(0, 0, 0, 2, 2, 2), box(0, 0, 2, 2, 2, 4)).item() == 0


def test_iou_of_empty_boxes_and_of_none():
    point = box(1, 1, 1, 1, 1, 1)
    assert box_iou(point, point).item() == 0
    assert box_iou(torch.zeros(0, 6), point).shape == (0, 1)
    assert generalized_box_iou(point, torch.zeros(0, 6)).shape == (1, 0)


def test_generalized_iou_of_separate_cubes_is_minus_the_gap():
    # Union 2, hull 3: 0 - (3 - 2) / 3.
    assert generalized_box_iou(box(0, 0, 0, 1, 1, 1), box(0, 0, 2, 1, 1, 3)).item() == pytest.approx(-1 / 3)


def test_float64_boxes_keep_their_precision():
    thin = box(0, 0, 1500, 1, 1, 1500).double()
    thin[0, 5] += 1e-6
    assert box_iou(thin, thin).dtype == torch.float64
    assert box_iou(thin, thin).item() == pytest.approx(1)
    assert box_volume(thin).item() == pytest.approx(1e-6, rel=1e-5)


@settings(deadline=None)
@given(box_lists(), box_lists())
def test_iou_is_symmetric_within_0_and_1_and_1_with_itself(a, b):
    iou = box_iou(a, b)
    assert torch.equal(iou, box_iou(b, a).T)
    assert (iou >= 0).all()
    assert (iou <= 1).all()
    assert torch.equal(box_iou(a, a).diagonal(), torch.ones(len(a)))


@settings(deadline=None)
@given(box_lists(), box_lists(), st.tuples(*[st.sampled_from([0.25, 0.5, 1.0, 2.0, 8.0])] * 3), st.integers(-50, 50))
def test_iou_does_not_depend_on_spacing_and_origin(a, b, spacing, shift):
    scale = torch.tensor([*spacing, *spacing])
    torch.testing.assert_close(box_iou(a * scale + shift, b * scale + shift), box_iou(a, b))
    torch.testing.assert_close(generalized_box_iou(a * scale, b * scale), generalized_box_iou(a, b))


@settings(deadline=None)
@given(box_lists(), box_lists())
def test_generalized_iou_is_at_most_iou_and_above_minus_1(a, b):
    giou = generalized_box_iou(a, b)
    assert (giou <= box_iou(a, b) + 1e-6).all()
    assert (giou > -1).all()


@settings(max_examples=40, deadline=None)
@given(box_lists(max_size=25), st.integers(1, 30), st.sampled_from([0.0, 0.1, 0.3, 0.6]), st.randoms())
def test_nms_keeps_the_best_and_drops_only_what_overlaps_something_better(boxes, block, threshold, random):
    scores = torch.tensor(random.sample(range(len(boxes)), len(boxes))) / len(boxes)
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        if not (box_iou(boxes[index : index + 1], boxes[kept]) > threshold).any():
            kept.append(index)
    assert nms(boxes, scores, threshold).tolist() == kept
    assert blocked_nms(boxes, scores, threshold, block=block).tolist() == kept


def random_boxes(count, seed, space_vox=60.0, mixed=False):
    """Boxes 1 to 21 voxels long; `mixed` adds a few huge, flat, swapped and NaN ones."""
    random = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 3, generator=random) * space_vox
    boxes = torch.cat([low, low + 1 + torch.rand(count, 3, generator=random) * 20], dim=1)
    if mixed:
        boxes[::50, 3:] += 300
        boxes[7::90, 3] = boxes[7::90, 0]
        boxes[8::90] = boxes[8::90].flip(1)
        boxes[9::90, 2] = torch.nan
    return boxes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fused_loops_give_the_bits_of_torch(dtype, monkeypatch):
    a, b = random_boxes(300, 0, mixed=True).to(dtype), random_boxes(200, 1, mixed=True).to(dtype)
    fused = box_iou(a, b), generalized_box_iou(a, b)
    monkeypatch.setattr(overlap, "MIN_FUSED_PAIRS", 10**9)
    plain = box_iou(a, b), generalized_box_iou(a, b)
    for one, other in zip(fused, plain, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(paired_iou(a[:, None], b[None]), plain[0], rtol=0, atol=0)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.6])
@pytest.mark.parametrize("space_vox", [0.0, 60.0, 5000.0])
def test_the_grid_keeps_what_the_blocks_keep(threshold, space_vox):
    boxes = random_boxes(900, 2, space_vox, mixed=True)
    scores = torch.rand(900, generator=torch.Generator().manual_seed(3))
    assert nms(boxes, scores, threshold).tolist() == blocked_nms(boxes, scores, threshold).tolist()


def test_overlaps_of_boxes_that_train_have_gradients():
    boxes = random_boxes(100, 4).requires_grad_()
    generalized_box_iou(boxes, random_boxes(100, 5)).sum().backward()
    assert boxes.grad.isfinite().all()


def test_random_cases_as_in_monai():
    from monai.data import box_utils

    random = torch.Generator().manual_seed(6)
    for seed in range(200):
        n, m = torch.randint(1, 90, (2,), generator=random).tolist()
        a, b = random_boxes(n, seed, 30), random_boxes(m, seed + 5000, 30)
        torch.testing.assert_close(box_iou(a, b), box_utils.box_iou(a, b), rtol=0, atol=1e-6)
        torch.testing.assert_close(generalized_box_iou(a, b), box_utils.box_giou(a, b), rtol=0, atol=2e-6)
        scores = torch.rand(n, generator=random)
        assert nms(a, scores, 0.3).tolist() == box_utils.non_max_suppression(a, scores, 0.3).tolist()


def test_a_read_only_installation_compiles_without_a_cache(monkeypatch):
    import numba

    from medpretrain3d.compiled import compiled

    real = numba.njit

    def njit(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(numba, "njit", njit)
    assert compiled()(lambda x: x + 1)(2) == 3


def test_a_negative_threshold_is_refused():
    with pytest.raises(UserError, match="at least 0"):
        nms(box(0, 0, 0, 1, 1, 1), torch.ones(1), -0.1)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.3, 0.6, 0.9, 1.0])
def test_suppressors_are_found_however_long_boxes_are(threshold):
    draw = torch.Generator().manual_seed(0)
    center, extent = torch.rand(600, 3, generator=draw) * 20, 4 * (torch.randn(600, 3, generator=draw) * 0.5).exp()
    extent[::50] *= 12  # the kernel has a list of their own for them
    boxes = torch.cat([center - extent / 2, center + extent / 2], dim=1).repeat(2, 1)
    boxes[600:] += 0.3 * torch.rand(600, 6, generator=draw)  # near the first ones
    scores = torch.linspace(1, 0, len(boxes))
    kept, suppressor = suppress(boxes, scores, threshold)
    assert kept.tolist() == blocked_nms(boxes, scores, threshold).tolist()
    overlaps = box_iou(boxes[kept], boxes) > threshold
    expected = torch.where(overlaps.any(dim=0), overlaps.int().argmax(dim=0), -1)  # the best one that is kept
    expected[kept] = torch.arange(len(kept))
    assert suppressor.tolist() == expected.tolist()


def test_nms_of_nothing():
    assert nms(torch.zeros(0, 6), torch.zeros(0), 0.5).tolist() == []
    assert len(classwise_nms(Detections.cat([]), 0.5)) == 0


def test_nms_within_classes_leaves_other_classes_alone():
    cube = box(0, 0, 0, 2, 2, 2)
    found = Detections(cube.repeat(3, 1), torch.tensor([0.2, 0.9, 0.4]), torch.tensor([1, 1, 0]))
    kept = classwise_nms(found, 0.5)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.4])
    assert kept.labels.tolist() == [1, 0]


@pytest.mark.parametrize("on_device", [False, True])
def test_groups_are_suppressed_in_one_call_as_one_by_one(on_device):
    boxes = random_boxes(400, 7, mixed=True)
    scores = (torch.rand(400, generator=torch.Generator().manual_seed(8)) * 20).round() / 20  # many equal ones
    groups = torch.randint(9, (400,), generator=torch.Generator().manual_seed(9)) * 3
    expected = []
    for group in range(0, 27, 3):
        rows = torch.nonzero(groups == group)[:, 0]
        expected += rows[nms(boxes[rows], scores[rows], 0.2)].tolist()
    if not on_device:
        assert batched_nms(boxes, scores, groups, 0.2).tolist() == expected
        return
    with CountingDevice():
        found = batched_nms(boxes.to(DEVICE), scores.to(DEVICE), groups.to(DEVICE), 0.2).tolist()
    assert found == expected


def test_generalized_iou_of_batches_is_that_of_each():
    for count in (5, 90):  # in torch, and in the fused loop
        a, b = random_boxes(6 * count, 10).view(3, 2, count, 6), random_boxes(2 * 80, 11).view(2, 80, 6)
        found = generalized_box_iou(a, b)
        assert found.shape == (3, 2, count, 80)
        for layer in range(3):
            for image in range(2):
                assert found[layer, image].equal(generalized_box_iou(a[layer, image], b[image]))


def test_boxes_are_cut_to_the_volume():
    assert clip_boxes(box(-2, 1, 1, 3, 9, 3), (4, 5, 6)).tolist() == [[0, 1, 1, 3, 5, 3]]


def test_joined_detections_fall_in_score():
    cube = box(0, 0, 0, 2, 2, 2)
    one = Detections(cube, torch.tensor([0.3]), torch.tensor([0]))
    two = Detections(cube + 1, torch.tensor([0.7]), torch.tensor([1]))
    joined = Detections.cat([one, two])
    assert joined.scores.tolist() == pytest.approx([0.7, 0.3])
    assert joined.labels.tolist() == [1, 0]
    assert joined.boxes[0].tolist() == [1, 1, 1, 3, 3, 3]
    assert len(joined[:1]) == 1
    assert joined[torch.tensor([1])].labels.tolist() == [0]


def test_moving_targets_keeps_what_they_hold():
    targets = Targets(box(0, 0, 0, 1, 1, 1), torch.tensor([2]), torch.zeros(1, 1, 1, dtype=torch.long))
    moved = targets.to("meta")
    assert (moved.boxes.device.type, moved.labels.device.type) == ("meta", "meta")
    assert moved.mask is not None
    assert moved.mask.device.type == "meta"
    assert Targets(targets.boxes, targets.labels).to("cpu").mask is None


@pytest.mark.parametrize("index", range(5))
def test_the_numbers_of_nndetection(index):
    data = oracle("box_ops")[index]
    first, second = torch.tensor(data["boxes1"]), torch.tensor(data["boxes2"])
    torch.testing.assert_close(box_iou(first, second), torch.tensor(data["iou"]), rtol=0, atol=2e-6)
    torch.testing.assert_close(generalized_box_iou(first, second), torch.tensor(data["giou"]), rtol=0, atol=2e-6)
    kept = nms(first, torch.tensor(data["scores1"]), data["nms_threshold"])
    assert kept.tolist() == data["nms_keep"]


def test_mirroring_a_box_by_hand():
    # Along an axis of 10 voxels, voxels 1, 2, 3 become voxels 8, 7, 6: [1, 4) becomes [6, 9).
    one = box(1, 0, 2, 4, 5, 3)
    assert mirror_boxes(one, (10, 10, 10), (0,)).tolist() == [[6, 0, 2, 9, 5, 3]]
    assert mirror_boxes(one, (10, 5, 3), (0, 1, 2)).tolist() == [[6, 0, 0, 9, 5, 1]]


@given(st.lists(st.floats(0, 50), min_size=6, max_size=6), st.sets(st.integers(0, 2)))
def test_mirroring_twice_gives_the_box_back(numbers, axes):
    one = box(*numbers)
    torch.testing.assert_close(mirror_boxes(mirror_boxes(one, (50, 60, 70), axes), (50, 60, 70), axes), one)
