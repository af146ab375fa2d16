from __future__ import annotations

import math

import pytest
import torch

from medpretrain3d.backbones import ResEnc
from medpretrain3d.boxes import Targets
from medpretrain3d.detection import (
    ContrastiveDenoising,
    DeformableDETR,
    Denoising,
    OneToMany,
    SetLoss,
    VarifocalSetLoss,
)
from medpretrain3d.detection.auxiliary_queries import groups_apart
from medpretrain3d.detection.deformable_attention import DeformableAttention, sample_levels
from medpretrain3d.detection.deformable_layers import cell_centers, sine_encoding
from medpretrain3d.detection.labels import BACKGROUND, IGNORED
from medpretrain3d.detection.losses import varifocal_loss
from medpretrain3d.detection.set_loss import UnitTargets, from_unit, to_unit
from medpretrain3d.errors import UserError
from tests.tiny_detectors import tiny_detector


def naive_sample(values, location):
    """Trilinear value (C,) of (C, D, H, W) at (d, h, w) in [0, 1], corner by corner; 0 outside."""
    total = torch.zeros(values.shape[0])
    place = [location[axis].item() * values.shape[axis + 1] - 0.5 for axis in range(3)]
    for corner in torch.cartesian_prod(*[torch.tensor([0, 1])] * 3).tolist():
        index = [math.floor(place[axis]) + corner[axis] for axis in range(3)]
        weight = math.prod(1 - abs(place[axis] - index[axis]) for axis in range(3))
        if all(0 <= index[axis] < values.shape[axis + 1] for axis in range(3)):
            total += weight * values[:, index[0], index[1], index[2]]
    return total


def test_sampling_agrees_with_a_loop_over_points():
    torch.manual_seed(0)
    levels = [torch.randn(2, 2, 3, 4, 5, 6), torch.randn(2, 2, 3, 2, 3, 3)]  # (B, heads, C, D, H, W), D != H != W
    locations = torch.rand(2, 5, 2, 2, 3, 3) * 1.2 - 0.1
    weights = torch.rand(2, 5, 2, 2, 3)
    expected = torch.zeros(2, 5, 2, 3)
    for b, q, n, level, p in torch.cartesian_prod(*[torch.arange(size) for size in (2, 5, 2, 2, 3)]).tolist():
        expected[b, q, n] += weights[b, q, n, level, p] * naive_sample(
            levels[level][b, n], locations[b, q, n, level, p]
        )
    torch.testing.assert_close(sample_levels(levels, locations, weights), expected.flatten(2), rtol=1e-4, atol=1e-5)


def test_a_ramp_is_read_where_the_offsets_point():
    # Channels hold the coordinates (d, h, w) of the cells' centres, so reading a place gives the place.
    shape = (6, 10, 14)
    memory = cell_centers([shape], "cpu")[None]
    attention = DeformableAttention(3, num_levels=1, num_heads=1, num_points=1)
    with torch.no_grad():
        for layer in (attention.value, attention.output):
            layer.weight.copy_(torch.eye(3))
        attention.offsets.bias.copy_(torch.tensor([1.0, 2.0, -3.0]))
        query = torch.zeros(1, 1, 3)
        point = torch.tensor([[[0.4, 0.5, 0.6]]])
        read = attention(query, point, memory, [shape])[0, 0].tolist()
        assert read == pytest.approx([0.4 + 1 / 6, 0.5 + 2 / 10, 0.6 - 3 / 14], abs=1e-5)  # offsets in cells
        box = torch.tensor([[[0.4, 0.5, 0.6, 0.2, 0.1, 0.1]]])
        read = attention(query, box, memory, [shape])[0, 0].tolist()
        assert read == pytest.approx([0.4 + 0.1, 0.5 + 2 * 0.05, 0.6 - 3 * 0.05], abs=1e-5)  # in half extents


def test_sines_by_hand():
    code = sine_encoding(torch.tensor([[0.25, 0.5]]), 2)
    assert code[0].tolist() == pytest.approx([1, 0, 0, -1], abs=1e-6)  # sin and cos of pi / 2 and of pi
    assert sine_encoding(torch.rand(4, 3), 44).shape == (4, 132)


def test_unit_boxes_go_there_and_back():
    boxes = torch.tensor([[2.0, 3, 4, 6, 9, 12]])
    assert to_unit(boxes, (8, 12, 16))[0].tolist() == [0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    torch.testing.assert_close(from_unit(to_unit(boxes, (7, 11, 13)), (7, 11, 13)), boxes)


TARGETS = UnitTargets(
    torch.tensor([[0.2, 0.2, 0.2, 0.2, 0.2, 0.2], [0.7, 0.7, 0.7, 0.2, 0.2, 0.2]]), torch.tensor([1, 0])
)


def test_each_object_is_given_to_the_best_prediction():
    boxes = torch.cat([TARGETS.boxes.flip(0), TARGETS.boxes[:1]])
    logits = torch.zeros(3, 2)
    logits[2, 1] = 3.0  # the third says class 1 where the first object is; the second says nothing there
    assert SetLoss().match(logits, boxes, TARGETS).tolist() == [1, -1, 0]
    assert SetLoss().match(logits, boxes, UnitTargets(TARGETS.boxes[:0], TARGETS.labels[:0])).tolist() == [-1] * 3
    boxes[0] = torch.nan  # the box that fitted the second object
    assert SetLoss().match(logits, boxes, TARGETS).tolist() == [-1, 1, 0]


def test_set_losses_by_hand():
    boxes = TARGETS.boxes[None].clone()
    boxes[0, 0, 0] += 0.1  # half an extent: 1/3 IoU, and the hull is the union
    finite = torch.ones(1, 2, dtype=torch.bool)
    losses = SetLoss()(torch.zeros(1, 2, 2), boxes, finite, [TARGETS], [torch.tensor([0, 1])])
    assert losses["l1"].item() == pytest.approx(5 * 0.1 / 2)
    assert losses["giou"].item() == pytest.approx(2 * (2 / 3) / 2, rel=1e-4)
    # Each object has one right class at alpha and one wrong at 1 - alpha, all with p = 1/2.
    assert losses["classification"].item() == pytest.approx(0.25 * math.log(2))
    left_out = SetLoss()(torch.zeros(1, 2, 2), boxes, ~finite, [TARGETS], [torch.tensor([0, 1])])
    assert [loss.item() for loss in left_out.values()] == [0, 0, 0]


def test_spoilt_objects_stay_near_and_know_what_to_restore():
    torch.manual_seed(0)
    nothing = UnitTargets(torch.zeros(0, 6), torch.zeros(0, dtype=torch.long))
    noisy = Denoising(groups=3, label_noise=0.0, box_noise=0.4).add_noise([TARGETS, nothing], 2)
    boxes, labels, given = noisy.boxes, noisy.labels, noisy.answers
    assert (boxes.shape, labels.tolist()[0], noisy.num_groups) == ((2, 6, 6), [1, 0] * 3, 3)
    assert [each.tolist() for each in given] == [[0, 1] * 3, [-2] * 6]
    change = (boxes[0] - TARGETS.boxes.repeat(3, 1)).abs()
    assert change[:, :3].max() <= 0.4 * 0.1 + 1e-6
    assert change[:, 3:].max() <= 0.4 * 0.2 + 1e-6
    assert change.min() > 0
    exact = Denoising(groups=1, box_noise=0.0).add_noise([TARGETS], 2).boxes
    torch.testing.assert_close(exact[0], TARGETS.boxes)


def test_groups_do_not_see_each_other():
    assert groups_apart([4], "cpu") is None
    assert groups_apart([2, 1], "cpu").tolist() == [[False, False, True], [False, False, True], [True, True, False]]


@pytest.mark.parametrize(
    "auxiliary", [Denoising(groups=2), ContrastiveDenoising(groups=2), OneToMany(num_queries=6, repeats=2)]
)
def test_queries_of_training_do_not_change_what_detection_says(auxiliary):
    image = torch.randn(1, 1, 16, 16, 32, generator=torch.Generator().manual_seed(1))
    target = Targets(torch.tensor([[4.0, 6, 8, 10, 14, 15]]), torch.tensor([1]))
    plain, taught = tiny_detector(DeformableDETR), tiny_detector(DeformableDETR, auxiliary=auxiliary)
    taught.load_state_dict(plain.state_dict(), strict=False)
    expected, losses = plain.losses(image, [target]), taught.losses(image, [target])
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-4)
    assert len(losses) == len(expected) + 1


def test_the_published_recipe_is_the_default():
    model = DeformableDETR(ResEnc("XXS"), 1)
    assert (model.channels, len(model.encoder), len(model.decoder), model.num_levels) == (128, 3, 6, 4)
    attention = model.decoder[0].attention
    assert (attention.num_heads, attention.num_points) == (8, 4)
    # Every head starts in another corner of a cube, its points one to four cells away.
    start = attention.offsets.bias.view(8, 4, 4, 3)
    assert len({tuple(corner) for corner in start[:, 0, 0].tolist()}) == 8
    assert start[0, 0].abs().tolist() == [[step] * 3 for step in (1, 2, 3, 4)]


def test_channels_that_heads_do_not_divide_are_refused():
    with pytest.raises(UserError, match="channels 30"):
        tiny_detector(DeformableDETR, channels=30)
    with pytest.raises(UserError, match=r"channels 2: .* at least 4"):
        tiny_detector(DeformableDETR, channels=2, num_heads=1)


@pytest.mark.parametrize(("channels", "num_heads"), [(10, 1), (18, 3)])
def test_channels_that_four_does_not_divide_are_trained(channels, num_heads):
    detector = tiny_detector(DeformableDETR, channels=channels, num_heads=num_heads)
    targets = Targets(boxes=torch.tensor([[2.0, 2, 2, 8, 8, 8]]), labels=torch.tensor([0]))
    losses = detector.losses(torch.rand(1, 1, 16, 16, 16), [targets])
    assert torch.stack(list(losses.values())).isfinite().all()


def test_positives_move_less_than_the_noise_and_negatives_once_to_twice_as_far():
    true = torch.tensor([[0.5, 0.5, 0.5, 0.2, 0.3, 0.4], [0.4, 0.4, 0.4, 0.1, 0.1, 0.1]])
    target = UnitTargets(true, torch.tensor([1, 0]))
    nothing = UnitTargets(target.boxes[:0], target.labels[:0])
    noise = ContrastiveDenoising(groups=50, label_noise=0.0, box_noise=0.4)
    torch.manual_seed(0)
    boxes, labels, answers, num_groups = noise.add_noise([target, nothing], 2)
    assert num_groups == 50
    assert boxes.shape == (2, 50 * 2 * 2, 6)
    assert answers[0].tolist() == [0, 1, BACKGROUND, BACKGROUND] * 50
    assert answers[1].tolist() == [IGNORED] * 200
    assert labels[0].tolist() == [1, 0, 1, 0] * 50
    true = from_unit(target.boxes, (1, 1, 1)).repeat(100, 1)
    half = (target.boxes[:, 3:] / 2).repeat(100, 2)
    moved = ((from_unit(boxes[0], (1, 1, 1)) - true).abs() / half).view(50, 2, 2, 6)
    positive, negative = moved[:, 0], moved[:, 1]
    assert positive.max() <= 0.4 + 1e-4
    assert negative.min() >= 0.4 - 1e-4
    assert negative.max() <= 0.8 + 1e-4
    assert positive.max() > 0.35
    assert negative.max() > 0.75
    inwards = (from_unit(boxes[0], (1, 1, 1)) > true).float().mean()
    assert 0.4 < inwards < 0.6  # either way
    exact = ContrastiveDenoising(groups=1, box_noise=0.0).add_noise([target], 2).boxes
    torch.testing.assert_close(exact[0, :2], target.boxes)


@pytest.mark.parametrize(("num_objects", "num_groups"), [(0, 100), (1, 100), (3, 33), (60, 1), (150, 1)])
def test_an_image_has_about_as_many_pairs_however_many_objects_it_holds(num_objects, num_groups):
    """DINO's number: 100 pairs over the most objects of an image, one group at least."""
    target = UnitTargets(torch.full((num_objects, 6), 0.5), torch.zeros(num_objects, dtype=torch.long))
    noisy = ContrastiveDenoising().add_noise([target, UnitTargets(target.boxes[:1], target.labels[:1])], 1)
    assert noisy.num_groups == num_groups
    assert noisy.boxes.shape == (2, 2 * num_groups * num_objects, 6)
    few = ContrastiveDenoising(num_pairs=7).add_noise([target], 1)
    assert few.num_groups == max(1, 7 // max(1, num_objects))


def test_a_number_of_pairs_beside_a_number_of_groups_is_refused():
    assert ContrastiveDenoising(groups=5).add_noise([TARGETS], 2).num_groups == 5
    with pytest.raises(UserError, match="groups 5 and num_pairs 20"):
        ContrastiveDenoising(groups=5, num_pairs=20)


def test_varifocal_loss_by_hand():
    logits = torch.zeros(3)  # a score of 1/2 costs ln 2 whatever it is to be
    quality, is_object = torch.tensor([0.8, 0.0, 0.0]), torch.tensor([1.0, 1, 0])
    loss = varifocal_loss(logits, quality, is_object, alpha=0.75, gamma=2.0)
    assert loss.tolist() == pytest.approx([0.8 * math.log(2), 0, 0.75 * 0.25 * math.log(2)])
    sure = varifocal_loss(torch.logit(torch.tensor([0.8])), torch.tensor([0.8]), torch.ones(1), 0.75, 2.0)
    entropy = -0.8 * math.log(0.8) - 0.2 * math.log(0.2)  # the least there is
    assert sure.item() == pytest.approx(0.8 * entropy)


def test_a_set_learns_the_overlap_of_its_boxes():
    """Two queries: the first holds its object by an IoU of 1 / 3, the second is background."""
    boxes = torch.tensor([[[0.4, 0.5, 0.5, 0.2, 0.2, 0.2], [0.8, 0.8, 0.8, 0.1, 0.1, 0.1]]])
    target = UnitTargets(torch.tensor([[0.5, 0.5, 0.5, 0.2, 0.2, 0.2]]), torch.tensor([1]))
    finite, given = torch.ones(1, 2, dtype=torch.bool), [torch.tensor([0, BACKGROUND])]
    losses = VarifocalSetLoss()(torch.zeros(1, 2, 2), boxes, finite, [target], given)
    assert losses["classification"].item() == pytest.approx(math.log(2) * (1 / 3 + 3 * 0.75 * 0.25))
    plain = SetLoss()(torch.zeros(1, 2, 2), boxes, finite, [target], given)
    assert losses["l1"] == plain["l1"]
    assert losses["giou"] == plain["giou"]


def test_a_negative_in_an_ignore_region_is_not_taught_to_be_background():
    """What is not learned of any query without an object: with the whole crop ignored, negatives do not count."""

    class PositivesAlone(ContrastiveDenoising):
        def add_noise(self, *args):
            noisy = super().add_noise(*args)
            return noisy._replace(answers=[one.masked_fill(one == BACKGROUND, IGNORED) for one in noisy.answers])

    image = torch.randn(1, 1, 16, 16, 32, generator=torch.Generator().manual_seed(1))
    box, label = torch.tensor([[4.0, 6, 8, 10, 14, 15]]), torch.tensor([1])
    everywhere = torch.tensor([[0.0, 0, 0, 16, 16, 32]])

    def loss(kind, ignore):
        detector = tiny_detector(DeformableDETR, auxiliary=kind(groups=4))
        for classifier in detector.classifiers:
            torch.nn.init.zeros_(classifier.bias)  # a score of a half is a loss that shows
        torch.manual_seed(0)
        return detector.losses(image, [Targets(box, label, ignore=ignore)])["denoising"].item()

    assert loss(ContrastiveDenoising, everywhere) == pytest.approx(loss(PositivesAlone, None), rel=1e-5)
    assert loss(ContrastiveDenoising, None) > 1.05 * loss(PositivesAlone, None)
