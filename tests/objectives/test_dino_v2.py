"""DINOv2: its loss from its parts, its masks, its schedules, and what it hands on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medpretrain3d.backbones import DinoViT, Primus, ViT
from medpretrain3d.errors import UserError
from medpretrain3d.objectives import DINOv2, GramAnchoring
from medpretrain3d.objectives.gram_anchoring import gram_distance
from medpretrain3d.objectives.koleo import koleo
from medpretrain3d.objectives.prototypes import MovingCenter, SinkhornKnopp
from medpretrain3d.objectives.token_masks import draw_token_masks
from tests.tiny import tiny_backbone
from tests.tiny_views import multi_crop

SHAPE = (16, 16, 32)  # 2 x 2 x 4 tokens
SMALL = {"num_prototypes": 12, "head_channels": (16, 8), "temperature_warmup_steps": 0}


def make(**options: object) -> DINOv2:
    torch.manual_seed(0)
    backbone = DinoViT(**{**DinoViT.tiny, "positions": "learned", "position_grid": (2, 2, 2)})
    return DINOv2(backbone, **{**SMALL, **options})


def outputs(count: int, classes: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, classes, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# What a teacher gives to classes.


def test_sinkhorn_is_three_divisions_by_the_sums_of_classes_and_of_samples():
    cosines, temperature = outputs(5, 7), 0.1
    shares = (cosines.double() / temperature).exp()
    for _ in range(3):
        shares = shares / shares.sum(dim=0)
        shares = shares / shares.sum(dim=1, keepdim=True)
    torch.testing.assert_close(SinkhornKnopp()(cosines, temperature).double(), shares, atol=1e-6, rtol=1e-5)


def test_sinkhorn_gives_every_class_as_much_and_no_temperature_breaks_it():
    shares = SinkhornKnopp(iterations=200)(outputs(24, 6), 0.2)
    torch.testing.assert_close(shares.sum(dim=0), torch.full((6,), 24 / 6), atol=1e-3, rtol=0)
    # As many classes as samples, each nearest to its own: a permutation, where exp(1 / 0.001) is beyond all floats.
    torch.testing.assert_close(SinkhornKnopp()(torch.eye(4) * 2 - 1, 0.001), torch.eye(4))
    torch.testing.assert_close(SinkhornKnopp()(torch.full((3, 5), 0.3), 0.04), torch.full((3, 5), 1 / 5))


def test_the_center_after_two_steps_by_hand():
    center = MovingCenter(2, momentum=0.75)
    first = center(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 0.5)  # the mean of the batch, as there is no center yet
    torch.testing.assert_close(first, torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).softmax(dim=1))
    center.after_step()
    torch.testing.assert_close(center.mean, torch.tensor([0.5, 0.0]))
    center(torch.tensor([[0.9, 0.4]]), 0.5)
    center(torch.tensor([[0.1, 0.4], [0.5, 0.4]]), 0.5)  # another batch of the same step
    center.after_step()
    torch.testing.assert_close(center.mean, torch.tensor([0.5, 0.1]))
    center.eval()(torch.tensor([[9.0, 9.0]]), 0.5)
    center.after_step()
    torch.testing.assert_close(center.mean, torch.tensor([0.5, 0.1]))


def test_the_center_stays_in_a_step_that_shows_it_nothing_and_begins_with_the_first_that_does():
    center = MovingCenter(2, momentum=0.75)
    for rows in (torch.zeros(0, 2), torch.tensor([[1.0, 3.0]]), torch.zeros(0, 2)):  # no token is hidden at first
        before, has_mean = center.mean.clone(), center.has_mean()
        center(rows, 0.5)
        center.after_step()
        if not len(rows):
            torch.testing.assert_close(center.mean, before)
            assert center.has_mean() == has_mean
    torch.testing.assert_close(center.mean, torch.tensor([1.0, 3.0]))


def test_a_center_from_a_file_goes_on_as_the_one_that_was_saved_though_nothing_was_hidden_yet():
    center, resumed = MovingCenter(2, momentum=0.75), MovingCenter(2, momentum=0.75)
    center(torch.zeros(0, 2), 0.5)
    center.after_step()
    resumed.load_state_dict(center.state_dict())
    rows = torch.tensor([[1.0, 3.0], [2.0, 2.0]])
    torch.testing.assert_close(resumed(rows, 0.5), center(rows, 0.5))


# What is added to the loss.


def test_koleo_by_hand_and_its_slope_at_equal_vectors():
    square = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, -5.0]])  # at right angles on the circle
    assert koleo(square).item() == pytest.approx(-math.log(math.sqrt(2)), abs=1e-6)
    assert koleo(torch.tensor([[1.0, 0.0], [-4.0, 0.0]])).item() == pytest.approx(-math.log(2), abs=1e-6)
    three = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])  # 45, 45 and 135 degrees to the nearest
    chords = [2 * math.sin(math.radians(angle / 2)) for angle in (45, 45, 135)]
    assert koleo(three).item() == pytest.approx(-sum(map(math.log, chords)) / 3, abs=1e-6)
    equal = torch.ones(3, 4, requires_grad=True)
    koleo(equal).backward()
    assert torch.isfinite(equal.grad).all()
    with pytest.raises(UserError, match="batch of 1"):
        koleo(torch.ones(1, 4))


def test_gram_distance_by_hand():
    alike, apart = torch.tensor([[[1.0, 0.0], [3.0, 0.0]]]), torch.tensor([[[0.0, 2.0], [1.0, 0.0]]])
    assert gram_distance(alike, apart).item() == pytest.approx(0.5)  # of four cosines two differ by 1
    assert gram_distance(apart, 7 * apart).item() == 0


# The loss, from its parts.


@pytest.mark.parametrize("options", [{}, {"shares_head": True, "centering": "mean", "mask_shape": "tokens"}])
def test_the_loss_is_that_of_all_pairs_of_views_and_of_all_hidden_tokens(options):
    objective, batch = make(**options), multi_crop(SHAPE, count=3)
    out = objective(batch)
    hidden = torch.from_numpy(objective._draw_masks(batch, (2, 2, 4))).unflatten(0, (2, 3))  # (2, B, N)
    teacher = objective.teacher.network
    heads = [(net.head, net.patch_head or net.head) for net in (objective, teacher)]

    def see(backbone, image, is_hidden=None):
        tokens = backbone.embed(image)
        if is_hidden is not None:
            tokens = torch.where(is_hidden[..., None], objective.mask_token, tokens)
        return backbone.encode_with_class(tokens, backbone.grid(tuple(image.shape[2:])))

    views = [batch["image"][:, view] for view in range(2)]
    seen = [see(objective.backbone, view, where) for view, where in zip(views, hidden, strict=True)]
    local = [see(objective.backbone, batch["local"][:, view])[0] for view in range(2)]
    told = [see(teacher.backbone, view) for view in views]
    share = SinkhornKnopp() if "centering" not in options else MovingCenter(12, 0.9)
    targets = share(heads[1][0](torch.cat([image for image, _ in told])), 0.07).chunk(2)

    pairs = [(seen[0][0], targets[1]), (seen[1][0], targets[0])] + [(one, both) for one in local for both in targets]
    logs = [F.log_softmax(heads[0][0](image) / 0.1, dim=1) for image, _ in pairs]
    dino = torch.stack([-(target * log).sum(1).mean() for (_, target), log in zip(pairs, logs, strict=True)]).mean()

    share = type(share)() if "centering" not in options else MovingCenter(12, 0.9)
    rows = torch.cat([patches[where] for (_, patches), where in zip(told, hidden, strict=True)])
    patch_targets = share(heads[1][1](rows), 0.07)
    own = torch.cat([patches[where] for (_, patches), where in zip(seen, hidden, strict=True)])
    each = -(patch_targets * F.log_softmax(heads[0][1](own) / 0.1, dim=1)).sum(1)
    of_view = each.split(hidden.sum(dim=2).flatten().tolist())
    ibot = torch.stack([rows.mean() for rows in of_view if len(rows)]).sum() / 6

    spread = sum(koleo(image) for image, _ in seen)
    for name, value in (("dino", dino), ("ibot", ibot), ("koleo", spread)):
        torch.testing.assert_close(out.logs[name], value.detach(), msg=name)
    torch.testing.assert_close(out.loss, dino + ibot + 0.1 * spread)


def test_outputs_that_are_all_alike_cost_ln_k_and_half_of_it_for_half_of_the_views():
    objective = make(weights=(1.0, 1.0, 0.0))
    with torch.no_grad():
        for head in (objective.head, objective.patch_head):
            head.prototypes.copy_(torch.ones_like(head.prototypes))
    out = objective(multi_crop(SHAPE))
    assert out.logs["dino"].item() == pytest.approx(math.log(12), abs=1e-5)
    assert out.logs["ibot"].item() == pytest.approx(math.log(12) / 2, abs=1e-5)
    assert "koleo" not in out.logs


def test_what_is_hidden_does_not_reach_the_student():
    objective, batch = make(mask_shape="tokens", mask_probability=1.0, mask_ratio=(0.4, 0.6)), multi_crop(SHAPE)
    hidden = torch.from_numpy(objective._draw_masks(batch, (2, 2, 4))).unflatten(1, (2, 2, 4))
    voxels = hidden.repeat_interleave(8, 1).repeat_interleave(8, 2).repeat_interleave(8, 3)  # (2 B, D, H, W)
    noise = voxels.unflatten(0, (2, -1)).transpose(0, 1)[:, :, None] * torch.randn(batch["image"].shape)
    seen = []
    objective.backbone.norm.register_forward_hook(lambda module, given, made: seen.append(made))
    for changed in (batch, {**batch, "image": batch["image"] + noise}):
        objective(changed)
    (first, local), (second, _) = seen[:2], seen[2:]
    assert torch.equal(first, second)
    assert len(local) == 4


def test_a_transformer_without_class_token_has_its_mean_and_others_are_refused():
    for backbone in (ViT("XXS", patch_size=(8, 8, 8), position_grid=(2, 2, 2)), Primus("XXS", position_grid=(2, 2, 2))):
        tokens = backbone.embed(torch.randn(1, 1, *SHAPE))
        image, patches = backbone.encode_with_class(tokens, (2, 2, 4))
        torch.testing.assert_close(image, patches.mean(dim=1))
    backbone = tiny_backbone("DinoViT")
    image, patches = backbone.encode_with_class(backbone.embed(torch.randn(1, 1, 16, 16, 16)), (2, 2, 2))
    assert (image.shape, patches.shape) == ((1, 48), (1, 8, 48))
    assert not torch.allclose(image, patches.mean(dim=1), atol=1e-3)
    with pytest.raises(UserError, match="use DINO for any other"):
        DINOv2(tiny_backbone("ResEnc"), **SMALL)
    with pytest.raises(UserError, match="leave its `embedding` out"):
        DINOv2(Primus("XXS", patch_size=(4, 4, 4), embedding=(4, 8)), **SMALL)


# Masks.


@pytest.mark.parametrize("shape", ["blocks", "tokens"])
def test_one_of_two_views_is_masked_within_the_ratio_as_the_seed_of_the_sample_says(shape):
    seeds = [int(seed) for seed in np.random.default_rng(0).integers(0, 2**62, 40)]
    hidden = draw_token_masks(seeds, 2, (6, 6, 6), 0.5, (0.1, 0.5), shape).reshape(2, 40, 216)
    counts = hidden.sum(axis=2)
    assert ((counts > 0).sum(axis=0) == 1).all()
    assert {int(view) for view in (counts > 0).argmax(axis=0)} == {0, 1}
    some = counts[counts > 0] / 216
    assert some.min() >= 0.09
    assert some.max() <= 0.51
    assert np.ptp(some) > 0.3
    alone = draw_token_masks(seeds[7:8], 2, (6, 6, 6), 0.5, (0.1, 0.5), shape)
    assert np.array_equal(alone, hidden[:, 7])


def test_blocks_hold_together_and_probabilities_at_their_ends():
    def neighbors(shape):
        hidden = draw_token_masks(list(range(20)), 2, (6, 6, 6), 1.0, (0.3, 0.3), shape).reshape(-1, 6, 6, 6)
        assert (hidden.sum(axis=(1, 2, 3)) == round(0.3 * 216)).all()
        return (hidden[:, 1:] & hidden[:, :-1]).sum() / hidden[:, 1:].sum()

    assert neighbors("blocks") > 1.5 * neighbors("tokens")
    assert not draw_token_masks([1, 2], 2, (2, 2, 2), 0.0, (0.3, 0.3)).any()
    assert draw_token_masks([1], 2, (1, 1, 2), 1.0, (0.9, 0.9)).sum(axis=1).tolist() == [1, 1]
    with pytest.raises(UserError, match="at least two"):
        draw_token_masks([1], 2, (1, 1, 1), 1.0, (0.9, 0.9))


# Schedules, and what follows.


def test_temperature_and_momentum_follow_the_step():
    objective = make(temperature_warmup_steps=30, teacher_temperature=(0.04, 0.07), momentum=(0.9, 1.0))
    found = []
    for step in (0, 15, 30, 50, 100):
        objective.at_step(step, 100)
        found.append((objective.teacher_temperature, objective.teacher.momentum))
    temperatures, momenta = zip(*found, strict=True)
    assert temperatures == pytest.approx((0.04, 0.055, 0.07, 0.07, 0.07))
    assert momenta[0] == pytest.approx(0.9)
    assert momenta[3] == pytest.approx(0.95)
    assert momenta[4] == pytest.approx(1.0)


def test_what_follows_the_length_of_a_run_is_named():
    objective = make(momentum=(0.9, 1.0), gram=GramAnchoring(start=0.5, weight=2.0))
    short, long = objective.schedules(50, 50), objective.schedules(50, 100)
    assert short == pytest.approx({"momentum of the teacher": 1.0, "weight of Gram anchoring": 2.0})
    assert long == pytest.approx({"momentum of the teacher": 0.95, "weight of Gram anchoring": 2.0})
    assert objective.schedules(49, 100)["weight of Gram anchoring"] == 0.0
    assert "weight of Gram anchoring" not in make().schedules(50, 100)


def test_gram_anchoring_begins_late_with_the_teacher_of_then_and_keeps_it_for_a_while():
    objective, batch = make(gram=GramAnchoring(start=0.5, refresh_steps=3)), multi_crop(SHAPE)
    kept, taught = objective.kept_teacher.network, objective.teacher.network.backbone
    objective.at_step(4, 10)
    assert "gram" not in objective(batch).logs
    with torch.no_grad():
        taught.cls_token.add_(1.0)
    for step, is_kept in ((5, True), (6, False), (7, False), (8, True)):
        objective.at_step(step, 10)
        assert torch.equal(kept.cls_token, taught.cls_token) == is_kept, step
        out = objective(batch)
        assert out.logs["gram"] > 0
        torch.testing.assert_close(
            out.loss, out.logs["dino"] + out.logs["ibot"] + 0.1 * out.logs["koleo"] + 2 * out.logs["gram"]
        )
        with torch.no_grad():
            taught.cls_token.add_(1.0)
    out.loss.backward()
    assert all(parameter.grad is None for parameter in kept.parameters())


def test_the_encoder_that_is_handed_on_is_the_teachers():
    objective = make()
    assert objective.encoder is objective.teacher.network.backbone
    with torch.no_grad():
        objective.backbone.cls_token.add_(1.0)
    assert not torch.equal(objective.encoder.cls_token, objective.backbone.cls_token)
    objective.after_load()
    assert torch.equal(objective.encoder.cls_token, objective.backbone.cls_token)
    names = {name for name in objective.state_dict() if name.startswith(objective.encoder_prefix)}
    assert {name.removeprefix(objective.encoder_prefix) for name in names} == set(objective.backbone.state_dict())
