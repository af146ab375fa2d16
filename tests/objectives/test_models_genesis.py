from __future__ import annotations

import pytest
import torch

from medpretrain3d.errors import UserError
from medpretrain3d.objectives import ModelsGenesis
from medpretrain3d.objectives.counter_rng import CounterRNG
from medpretrain3d.objectives.distortions import (
    apply_curve,
    bezier_curve,
    in_paint,
    local_shuffle,
    out_paint,
    random_flips,
)
from tests.tiny import tiny_backbone


def draws(seed: int = 0) -> CounterRNG:
    return CounterRNG(torch.tensor(seed))


def numbered(*shape: int) -> torch.Tensor:
    return torch.arange(shape[0] * shape[1] * shape[2], dtype=torch.float32).reshape(1, *shape)


def test_the_target_is_the_image_mirrored_and_nothing_else():
    objective = ModelsGenesis(tiny_backbone())
    image = torch.rand(1, 16, 16, 16) * 2 - 1
    before = image.clone()
    mirrored = [image.flip(axes) for axes in ([], [1], [2], [3], [1, 2], [1, 3], [2, 3], [1, 2, 3])]
    num_mirrored = 0
    for seed in range(40):
        distorted, target = objective.distort(image, torch.tensor(seed))
        assert any(torch.equal(target, other) for other in mirrored)
        assert not torch.equal(distorted, target)
        num_mirrored += not torch.equal(target, image)
    assert torch.equal(image, before)
    assert 4 <= num_mirrored <= 28  # of 40 at less than 0.4


def test_without_distortions_the_network_sees_the_target():
    objective = ModelsGenesis(tiny_backbone(), flip_p=1, shuffle_p=0, curve_p=0, paint_p=0)
    image = torch.rand(1, 16, 16, 16)
    distorted, target = objective.distort(image, torch.tensor(3))
    assert torch.equal(distorted, target)


def test_flips_stop_after_three():
    image = numbered(4, 4, 4)
    counter = draws()
    random_flips(image, counter, probability=1.0)
    assert counter.position == 6  # whether and where, three times


def test_a_single_block_is_permuted_in_place_and_nothing_moves_outside_it():
    image = numbered(40, 30, 20)
    for seed in range(20):
        shuffled = local_shuffle(image, draws(seed), num_blocks=1)
        moved = torch.nonzero(shuffled != image)[:, 1:]
        assert torch.equal(shuffled.flatten().sort().values, image.flatten())  # every voxel is still there, once
        if len(moved):
            extent = moved.amax(dim=0) - moved.amin(dim=0) + 1
            assert (extent <= torch.tensor([4, 3, 2])).all()  # a tenth of the patch


def test_shuffled_voxels_come_from_within_a_block():
    d, h, w = 40, 30, 20
    image = numbered(d, h, w)
    shuffled = local_shuffle(image, draws(), num_blocks=10_000).long()
    for axis, (step, size, edge) in enumerate(((h * w, d, 4), (w, h, 3), (1, w, 2))):
        place = torch.arange(size).reshape([-1 if i == axis else 1 for i in range(3)])
        assert (shuffled[0] // step % size - place).abs().max() == edge - 1
    assert (shuffled != image).float().mean() > 0.4


def test_a_shuffle_that_starts_in_a_block_ends_anywhere_in_it():
    # One block of 2 x 2 x 2 is the whole patch; its first voxel ends in each of 8 places equally often.
    ends = []
    for seed in range(3000):
        shuffled = local_shuffle(numbered(2, 2, 2), draws(seed), num_blocks=1)
        if (CounterRNG(torch.tensor(seed)).integers(1, 2, 3) == 2).all():  # the edges are drawn first
            ends.append(int((shuffled.flatten() == 0).nonzero()))
    share = torch.bincount(torch.tensor(ends), minlength=8) / len(ends)
    assert len(ends) > 250  # one in eight
    assert (share - 1 / 8).abs().max() < 5 * (1 / 8 * 7 / 8 / len(ends)) ** 0.5


@pytest.mark.parametrize("is_rising", [True, False])
def test_curves_are_monotone_and_keep_the_ends(is_rising):
    for controls in (*torch.rand(50, 2, 2), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[1.0, 0], [0, 1.0]])):
        curve = bezier_curve(controls, is_rising)
        step = curve.diff() if is_rising else -curve.diff()
        assert step.min() >= -1e-7
        assert curve[[0, -1]].tolist() == pytest.approx([0.0, 1.0] if is_rising else [1.0, 0.0], abs=1e-6)


def test_control_points_on_the_diagonal_change_nothing():
    # B(t) has x = y for all t, so the map is the identity, and its mirror image is 1 - x.
    controls = torch.tensor([[0.2, 0.2], [0.7, 0.7]])
    image = torch.rand(1, 4, 4, 4) * 2 - 1
    torch.testing.assert_close(apply_curve(image, bezier_curve(controls, True)), image, atol=1e-5, rtol=0)


def test_the_middle_of_a_curve_by_hand():
    # Controls (0, 1) and (1, 1): at t = 1/2, x = 3/8 + 1/8 = 1/2 and y = 3/8 + 3/8 + 1/8 = 7/8.
    curve = bezier_curve(torch.tensor([[0.0, 1.0], [1.0, 1.0]]), is_rising=True)
    assert apply_curve(torch.zeros(1, 1, 1, 1), curve).item() == pytest.approx(2 * 7 / 8 - 1, abs=1e-3)


def test_intensities_outside_the_window_are_not_clamped():
    image = torch.tensor([-1.5, -1.0, 1.0, 1.5]).reshape(1, 1, 1, 4)
    controls = torch.tensor([[0.1, 0.9], [0.3, 0.8]])
    rising = apply_curve(image, bezier_curve(controls, True)).flatten().tolist()
    falling = apply_curve(image, bezier_curve(controls, False)).flatten().tolist()
    assert rising == pytest.approx([-1.5, -1.0, 1.0, 1.5], abs=1e-5)
    assert falling == pytest.approx([1.5, 1.0, -1.0, -1.5], abs=1e-5)


def test_in_painting_leaves_most_and_out_painting_keeps_some():
    image = torch.full((1, 24, 36, 48), 2.0)  # outside the range of noise
    for seed in range(10):
        inner, outer = in_paint(image, draws(seed)) != 2, out_paint(image, draws(seed)) == 2
        assert inner.float().mean() <= 5 / 27  # five boxes of a third of each edge
        assert (3 / 7 - 1 / 24) ** 3 <= outer.float().mean() <= 5 * (4 / 7) ** 3
        for where in (inner, outer):
            touched = torch.zeros(24, 36, 48, dtype=torch.bool)
            touched[3:-3, 3:-3, 3:-3] = True
            assert not (where[0] & ~touched).any()  # three voxels from the faces
        noise = out_paint(image, draws(seed))[~outer]
        assert noise.min() >= -1
        assert noise.max() < 1


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (8, 16, 24)])
def test_any_patch_can_be_distorted(shape):
    objective = ModelsGenesis(tiny_backbone(), shuffle_p=1, curve_p=1, paint_p=1, num_shuffled_blocks=20)
    for seed in range(10):
        assert objective.distort(torch.rand(2, *shape), torch.tensor(seed))[0].shape == (2, *shape)


def test_bad_settings_are_named():
    with pytest.raises(UserError, match=r"curve_p 1\.5"):
        ModelsGenesis(tiny_backbone(), curve_p=1.5)
    with pytest.raises(UserError, match="num_shuffled_blocks 0"):
        ModelsGenesis(tiny_backbone(), num_shuffled_blocks=0)
