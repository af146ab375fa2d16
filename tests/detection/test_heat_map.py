"""Heat maps: targets with numbers by hand, peaks, the loss, and what goes in as points comes out as points."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medpretrain3d.backbones import ResEnc
from medpretrain3d.boxes import Targets, box_center, cut_about_center, suppress_by_distance
from medpretrain3d.detection import BallTarget, GaussianTarget, HeatMap, PointGrid
from medpretrain3d.detection.heat_decoding import HeatDecoder
from medpretrain3d.detection.heat_targets import heat_maps
from medpretrain3d.detection.losses import hardest_bce
from medpretrain3d.detection.peaks import ball_maximum, peaks
from medpretrain3d.errors import UserError

SHAPE, STRIDE, SPACING = (8, 10, 12), (2, 2, 2), (3.0, 1.0, 1.0)
CELLS = PointGrid(1)([SHAPE], [STRIDE], "cpu")
IMAGE = (16, 20, 24)


def points(*centers, labels=None, ignore=None):
    boxes = torch.tensor([[*center, *center] for center in centers], dtype=torch.float32).reshape(-1, 6)
    labels = torch.zeros(len(boxes), dtype=torch.long) if labels is None else torch.tensor(labels)
    return Targets(boxes, labels, ignore=ignore)


def maps_of(target, num_classes=1, kind=None):
    return heat_maps([target], SHAPE, STRIDE, SPACING, num_classes, kind or BallTarget(radius_mm=4.0))


def decoder(**options):
    settings = {"min_distance_mm": 4.0, "diameter_mm": 2.0, "score_threshold": 0.01, "detections_per_image": 100}
    return HeatDecoder(STRIDE, SPACING, candidates_per_image=1000, **{**settings, **options})


def decoded(heat, values=None, **options):
    """What is found where the network says the target: heat (K, A), values (A, V)."""
    logits = torch.logit(heat, eps=1e-6).T[None]
    values = torch.zeros(1, logits.shape[1], 0) if values is None else values[None]
    finite = torch.ones(logits.shape[:2], dtype=torch.bool)
    found = decoder(**options).candidates(logits, values, finite, CELLS, SHAPE, IMAGE)
    return decoder(**options).compare(*(part[0] for part in found))


def test_a_ball_in_mm_and_its_nearest_cell_is_1():
    heat = maps_of(points((5.0, 9, 13))).heat.view(SHAPE)  # the center of cell (2, 4, 6)
    assert heat[2, 4, 6] == 1
    assert heat[2, 4, 7] == heat[2, 3, 6] == 0.5  # 2 mm away, of 4
    assert heat[3, 4, 6] == 0  # 6 mm away
    assert heat[2, 5, 7] == pytest.approx(1 - 8**0.5 / 4)
    off = maps_of(points((5.9, 9, 13.5))).heat  # 2.7 and 0.5 mm beside the nearest cell
    assert off.max() == 1
    assert off.argmax() == heat.argmax()


def test_a_gaussian_in_mm():
    heat = maps_of(points((5.0, 9, 13)), kind=GaussianTarget(sigma_mm=2.0)).heat.view(SHAPE)
    assert heat[2, 4, 6] == 1
    assert heat[2, 4, 7] == pytest.approx(math.exp(-0.5))
    assert heat[1, 4, 6] == 0  # three sigma away


def test_where_objects_meet_the_larger_value_holds_and_classes_are_apart():
    one, two = points((5.0, 9, 11)), points((5.0, 9, 15))
    both = maps_of(points((5.0, 9, 11), (5, 9, 15)))
    assert both.heat.equal(torch.maximum(maps_of(one).heat, maps_of(two).heat))
    apart = maps_of(points((5.0, 9, 11), (5, 9, 15), labels=[1, 0]), num_classes=2).heat
    assert apart[0, 1].equal(maps_of(one).heat[0, 0])
    assert apart[0, 0].equal(maps_of(two).heat[0, 0])


def test_in_an_ignore_region_cells_count_where_an_object_is():
    target = points((5.0, 9, 13), ignore=torch.tensor([[0.0, 0, 0, 16, 20, 12]]))
    maps = maps_of(target)
    heat, counts = (part.view(SHAPE) for part in (maps.heat, maps.counts))
    assert counts[..., 6:].all()
    assert counts[..., :6].equal(heat[..., :6] > 0)
    assert counts[..., :6].any()


@pytest.mark.parametrize("kind", [BallTarget(radius_mm=4.0), GaussianTarget(sigma_mm=1.5)])
def test_separated_points_survive_encoding_and_decoding(kind):
    random = np.random.default_rng(0)
    centers = np.zeros((0, 3))
    for place in random.uniform((2, 2, 2), np.array(IMAGE) - 2, (200, 3)):  # farther apart than two cells' diagonals
        if len(centers) == 0 or np.linalg.norm((centers - place) * SPACING, axis=1).min() > 13.3:
            centers = np.concatenate([centers, place[None]])
    assert len(centers) > 6
    maps = maps_of(points(*centers), kind=kind)
    values = torch.zeros(len(CELLS), 3)
    values[maps.near] = (maps.centers_vox - box_center(CELLS)[maps.near]) / torch.tensor(STRIDE)
    found = box_center(decoded(maps.heat[0], values).boxes)
    assert len(found) == len(centers)
    away = torch.cdist(torch.tensor(centers, dtype=torch.float32), found)
    assert away.amin(dim=1).max() < 1e-3
    coarse = box_center(decoded(maps.heat[0]).boxes)  # without offsets: within a cell
    assert len(coarse) == len(centers)
    assert torch.cdist(torch.tensor(centers, dtype=torch.float32), coarse).amin(dim=1).max() <= 3**0.5 + 1e-3


@pytest.mark.parametrize("axes", [axes for n in (1, 2, 3) for axes in itertools.combinations(range(3), n)])
def test_mirroring_commutes_with_encoding_and_decoding(axes):
    centers = torch.tensor([[4.0, 9.3, 13], [10.2, 4, 6.1], [12, 15.9, 20]])  # 4 lies between two cells
    mirrored = centers.clone()
    for axis in axes:
        mirrored[:, axis] = IMAGE[axis] - centers[:, axis]
    maps, other = (maps_of(points(*one.tolist())) for one in (centers, mirrored))
    flipped = maps.heat.view(1, 1, *SHAPE).flip([2 + axis for axis in axes]).reshape(maps.heat.shape)
    torch.testing.assert_close(other.heat, flipped, rtol=0, atol=1e-6)
    found = []
    for one in (maps, other):
        values = torch.zeros(len(CELLS), 3)
        values[one.near] = (one.centers_vox - box_center(CELLS)[one.near]) / torch.tensor(STRIDE)
        found.append(box_center(decoded(one.heat[0], values).boxes))
    for axis in axes:
        found[1][:, axis] = IMAGE[axis] - found[1][:, axis]
    assert torch.cdist(*found).amin(dim=1).max() < 1e-3
    assert len(found[0]) == len(found[1]) == 3


def test_two_equal_peaks_farther_apart_than_the_radius_stay_and_nearer_ones_are_one():
    for step, is_apart in ((3, True), (2, False)):  # 6 and 4 mm along W, of 4 mm
        heat = torch.zeros(1, *SHAPE)
        heat[0, 3, 3, 2] = heat[0, 3, 3, 2 + step] = 0.7
        assert len(decoded(heat.flatten(1), score_threshold=0.5)) == 1 + is_apart
    heat = torch.zeros(1, *SHAPE)
    heat[0, 3, 3, 3], heat[0, 3, 5, 5] = 0.7, 0.6  # 5.7 mm along the diagonal: a cube would take it
    assert len(decoded(heat.flatten(1), min_distance_mm=5.0, score_threshold=0.5)) == 2


@pytest.mark.parametrize("center", [(6.0, 9.0, 13.0), (6.0, 8.0, 13.0), (6.0, 8.0, 12.0)])
def test_an_object_midway_between_cells_is_found_once(center):
    """It is as near to 2, 4 and 8 cells, 6 mm apart along D and 2 along H and W."""
    heat = maps_of(points(center), kind=BallTarget(radius_mm=8.0)).heat[0]
    assert len(decoded(heat, min_distance_mm=1.0)) == 1


def test_the_maximum_over_a_ball_is_that_of_all_cells_in_it():
    heat = torch.rand(2, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
    radius_mm, cell_mm = 5.0, (6.0, 2.0, 2.0)
    places = np.argwhere(np.ones(SHAPE))
    offsets = places[:, None] - places[None]
    near = (np.square(offsets * cell_mm).sum(axis=2) <= radius_mm**2) | (np.abs(offsets).max(axis=2) <= 1)
    expected = np.where(near, heat.view(2, 1, -1).numpy(), -np.inf).max(axis=2)
    assert ball_maximum(heat, radius_mm, cell_mm).flatten(1).numpy() == pytest.approx(expected)
    assert peaks(heat, 1000.0, cell_mm).sum() == 2  # a ball larger than the map


def test_boxes_come_out_where_extents_are_learned():
    box = torch.tensor([[2.0, 4, 6, 6, 12, 20]])
    maps = maps_of(Targets(box, torch.tensor([0])))
    values = torch.zeros(len(CELLS), 6)
    values[maps.near, :3] = (maps.centers_vox - box_center(CELLS)[maps.near]) / torch.tensor(STRIDE)
    values[maps.near, 3:] = (maps.sizes_vox * torch.tensor(SPACING) / 2.0).log()
    torch.testing.assert_close(decoded(maps.heat[0], values).boxes[:1], box)


def test_hardest_share_by_hand_and_all_of_it_is_plain_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(2, 10, generator=generator), torch.rand(2, 10, generator=generator)
    every = torch.ones(2, 10, dtype=torch.bool)
    plain = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    assert hardest_bce(logits, targets, every, 1.0).item() == pytest.approx(plain.mean().item())
    expected = plain.sort(dim=1, descending=True).values[:, :2].mean()
    assert hardest_bce(logits, targets, every, 0.2).item() == pytest.approx(expected.item())
    # Cells that do not count are not among the hardest, whatever they say.
    counts = every.clone()
    counts[:, :5] = False
    logits[:, :5] = torch.nan
    assert hardest_bce(logits, targets, counts, 1.0).item() == pytest.approx(plain[:, 5:].mean().item())
    expected = plain[:, 5:].sort(dim=1, descending=True).values[:, :3].mean()
    assert hardest_bce(logits, targets, counts, 0.3).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("regression", ["none", "offset", "box"])
def test_points_are_learned_and_no_extent_of_them(regression):
    torch.manual_seed(0)
    model = HeatMap(ResEnc("XXS"), 1, fpn_channels=16, regression=regression)
    image = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    losses = model.losses(image, [points((5.0, 5, 5))])
    assert model.num_invalid_boxes == 0
    assert set(losses) == {"classification"} | ({"boxes"} if regression != "none" else set())
    sum(losses.values()).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    if regression == "box":
        assert model.box_head.output.weight.grad[:3].abs().max() > 0
        assert model.box_head.output.weight.grad[3:].abs().max() == 0
    found = model.eval().detect(image)[0]
    assert len(found) > 0


def test_data_of_another_spacing_are_refused():
    model = HeatMap(ResEnc("XXS"), 1, spacing_mm=(3.0, 1.0, 1.0), fpn_channels=16)
    model.check_spacing((3.0, 1.0, 1.0))
    with pytest.raises(UserError, match="every scan of the data keeps its own spacing"):
        model.check_spacing(None)
    with pytest.raises(UserError, match=r"voxels of \[3.0, 1.0, 1.0\] mm, the data have \[1.0, 1.0, 1.0\]"):
        model.check_spacing((1.0, 1.0, 1.0))


def test_suppression_by_distance_by_hand():
    centers = torch.tensor([[0.0, 0, 0], [0, 0, 4], [0, 0, 8], [0, 0, 12.1]])
    kept, owner = suppress_by_distance(centers, torch.tensor([0.5, 0.9, 0.7, 0.9]), 4.0)
    assert kept.tolist() == [1, 3]  # 8 is within 4 of 4, and 4.1 from 12.1
    assert owner.tolist() == [0, 0, 0, 1]
    assert [len(part) for part in suppress_by_distance(centers[:0], torch.zeros(0), 4.0)] == [0, 0]


def test_a_box_cut_about_its_center_keeps_it():
    boxes = torch.tensor([[-2.0, 1, 2, 4, 7, 8], [9, 9, 9, 15, 15, 15]])
    cut = cut_about_center(boxes, (10, 10, 10))
    assert cut[0].tolist() == [0, 1, 2, 2, 7, 8]
    assert cut[1].tolist() == [9, 9, 9, 10, 10, 10]  # outside: half a voxel inside
