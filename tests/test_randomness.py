"""Random numbers of samples: alike in every batch, different between samples, draws and purposes."""

from __future__ import annotations

import pytest
import torch

from medpretrain3d.backbones import Primus, ViT
from medpretrain3d.backbones.tokens import DropPath
from medpretrain3d.detection.dropout import Dropout, SelfAttention
from medpretrain3d.objectives.base import seeds_of_views
from medpretrain3d.objectives.voco import crop_seeds
from medpretrain3d.processes import among_lowest
from medpretrain3d.randomness import counter_random, derived_seeds, draw_bits, random_at, row_seeds, sample_seeds
from tests.tiny import tiny_backbone
from tests.tiny_objectives import TINY_OBJECTIVES, default_backbone

CPU = torch.device("cpu")


def test_numbers_at_any_position_are_those_of_the_counter():
    seeds = torch.tensor([3, -9])
    assert torch.equal(random_at(seeds, torch.tensor([5, 6])), counter_random(seeds, 2, 5).diagonal())


def test_draws_repeat_for_a_seed_and_differ_between_draws_seeds_and_purposes():
    with sample_seeds(torch.tensor([1, 2])):
        first, second = draw_bits(2, 3, CPU), draw_bits(2, 3, CPU)
    with sample_seeds(torch.tensor([2])):
        assert torch.equal(draw_bits(1, 3, CPU), first[1:])
    with sample_seeds(torch.tensor([2]), times=1):
        assert torch.equal(draw_bits(1, 3, CPU), second[1:])
    purposes = [derived_seeds(torch.tensor([1, 2]), purpose) for purpose in ("anchors", "denoising")]
    numbers = torch.cat([first.flatten(), second.flatten(), *purposes])
    assert len(numbers.unique()) == len(numbers)


def test_another_number_of_rows_than_was_told_is_an_error():
    with sample_seeds(torch.tensor([1, 2])), pytest.raises(ValueError, match="4 rows inside of sample_seeds of 2"):
        row_seeds(4, CPU)


def test_without_seeds_the_generator_decides():
    torch.manual_seed(0)
    first = row_seeds(3, CPU)
    torch.manual_seed(0)
    assert torch.equal(row_seeds(3, CPU), first)
    assert not torch.equal(row_seeds(3, CPU), first)


def test_a_sample_drops_the_same_branches_in_every_batch():
    drop, ones = DropPath(0.5).train(), torch.ones(64, 2, 3)
    with sample_seeds(torch.arange(64)):
        attention, mlp = drop(ones), drop(ones)
    with sample_seeds(torch.tensor([40, 7])):
        assert torch.equal(drop(ones[:2]), attention[[40, 7]])
        assert torch.equal(drop(ones[:2]), mlp[[40, 7]])
    assert not torch.equal(attention, mlp)
    assert attention.unique().tolist() == [0, 2]  # samples differ


def test_dropout_leaves_out_its_share_and_keeps_the_mean():
    x = torch.ones(4, 100, 101)
    with sample_seeds(torch.arange(4)):
        dropped = Dropout(0.1).train()(x)
    with sample_seeds(torch.tensor([2])):
        assert torch.equal(Dropout(0.1).train()(x[:1]), dropped[2:3])
    assert (dropped == 0).float().mean().item() == pytest.approx(0.1, abs=0.005)
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)
    assert not torch.equal(dropped[0], dropped[1])
    assert torch.equal(Dropout(0.1).eval()(x), x)


def test_attention_with_the_least_dropout_is_that_of_pytorch():
    torch.manual_seed(0)
    attention, placed, content = SelfAttention(16, 2, 1e-9), torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    apart = torch.zeros(5, 5, dtype=torch.bool)
    apart[:2, 2:] = True
    torch.testing.assert_close(attention.train()(placed, content, apart), attention.eval()(placed, content, apart))
    assert not torch.equal(SelfAttention(16, 2, 0.5).train()(placed, content, apart), attention(placed, content, apart))


@pytest.mark.parametrize("cls", [ViT, Primus])
def test_checkpointing_drops_the_same_branches_again(cls):
    image, gradients = torch.randn(4, 1, 16, 24, 16), []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        backbone = cls(
            "XXS", patch_size=(8, 8, 8), position_grid=(2, 2, 2), drop_path=0.5, checkpointing=checkpointing
        ).train()
        with sample_seeds(torch.arange(4)):
            loss = backbone(image)[0].square().mean()
        loss.backward()  # outside of the context
        gradients.append([parameter.grad for parameter in backbone.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


@pytest.mark.parametrize("cls", TINY_OBJECTIVES)
def test_no_objective_draws_from_the_generator_of_the_process(cls):
    tiny = TINY_OBJECTIVES[cls]
    name = default_backbone(cls, "ViT anisotropic")
    has_transformer = name == "ViT anisotropic"
    torch.manual_seed(0)
    backbone = ViT("XXS", patch_size=(4, 8, 8), drop_path=0.5) if has_transformer else tiny_backbone(name)
    objective = tiny.make(backbone)
    batch, state = tiny.batch(name, 5), torch.get_rng_state()
    first = objective.train()(batch).loss
    first.backward()
    assert torch.equal(torch.get_rng_state(), state)
    assert objective(batch).loss.item() == first.item()


def test_views_and_crops_have_seeds_of_their_own():
    seeds = torch.tensor([4, 5, 6])
    views = seeds_of_views(seeds, 2)
    assert torch.equal(seeds_of_views(seeds[1:2], 2), views[[1, 4]])
    crops = crop_seeds(seeds, 4, torch.tensor([0, 0, 1, 2, 2, 2]))
    assert len(crops.unique()) == 3 * 4 + 6
    assert torch.equal(crop_seeds(seeds[2:], 4, torch.tensor([0, 0, 0])), crops[[8, 9, 10, 11, 15, 16, 17]])


def test_among_the_lowest():
    values = torch.tensor([5, -1, 3, 9])
    assert among_lowest(values, 2).tolist() == [False, True, True, False]
    assert among_lowest(values, 0).tolist() == [False] * 4
    assert among_lowest(values, 7).tolist() == [True] * 4
    assert among_lowest(values[:0], 0).tolist() == []


@pytest.mark.parametrize("probability", [0.99999, 0.999995, 1 - 1e-12])
def test_dropout_of_almost_all_keeps_a_few_that_grow_by_as_much(probability):
    with sample_seeds(torch.arange(4)):
        dropped = Dropout(probability).train()(torch.ones(4, 2**17))
    assert dropped.unique().tolist() == [0.0, 2.0**16]
