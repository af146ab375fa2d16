from __future__ import annotations

import math

import pytest
import torch

from medpretrain3d.backbones import DinoViT
from medpretrain3d.backbones.rope import normalized_axial_rotation
from medpretrain3d.backbones.tokens import resize_positions
from medpretrain3d.errors import UserError


def test_angles_are_those_of_centers_between_minus_one_and_one():
    sine, cosine = normalized_axial_rotation((1, 2, 4), torch.tensor([1.0, 8.0]), torch.float32)
    assert sine.shape == cosine.shape == (8, 12)
    # Token (0, 1, 3): centers 0, 1/2 and 3/4; two periods per axis, each for a pair of channels.
    angles = [0, 0, 0, 0, *[math.pi] * 2, *[math.pi / 8] * 2, *[1.5 * math.pi] * 2, *[1.5 * math.pi / 8] * 2]
    torch.testing.assert_close(sine[-1], torch.tensor(angles).sin(), atol=1e-6, rtol=0)
    torch.testing.assert_close(cosine[-1], torch.tensor(angles).cos(), atol=1e-6, rtol=0)


def test_positions_resized_with_an_offset_are_the_same_from_the_far_end():
    table = torch.randn(1, 3 * 4 * 5, 2, generator=torch.Generator().manual_seed(0))
    flipped = table.reshape(3, 4, 5, 2).flip(1).reshape(1, -1, 2)
    near = resize_positions(table, (3, 4, 5), (4, 5, 6), (0.1, 0.1, 0.1))
    far = resize_positions(flipped, (3, 4, 5), (4, 5, 6), (0.1, -0.1, 0.1))
    torch.testing.assert_close(far.reshape(4, 5, 6, 2).flip(1).reshape(1, -1, 2), near)
    assert not torch.allclose(near, resize_positions(table, (3, 4, 5), (4, 5, 6)))


def test_class_token_and_registers_are_no_features():
    backbone = DinoViT(**DinoViT.tiny).eval()
    x = torch.randn(1, 1, 16, 8, 24, generator=torch.Generator().manual_seed(0))
    (features,) = backbone(x)
    assert features.shape == (1, 48, 2, 1, 3)
    keep = torch.tensor([[5, 0, 2]])
    kept = backbone.encode(backbone.embed(x), (2, 1, 3), keep)
    assert kept.shape == (1, 3, 48)


def test_hidden_tokens_change_nothing_that_does_not_look_at_them():
    backbone = DinoViT(**DinoViT.tiny).eval()
    tokens = torch.randn(2, 6, 48, generator=torch.Generator().manual_seed(0))
    every = torch.arange(6).expand(2, -1).flip(1)
    with torch.no_grad():
        torch.testing.assert_close(
            backbone.encode(tokens, (1, 2, 3), every), backbone.encode(tokens, (1, 2, 3)).flip(1), rtol=1e-5, atol=1e-6
        )


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(UserError, match="wanted a multiple of 12"):
        DinoViT(width=40, depth=1, heads=2)
    assert DinoViT(width=40, depth=1, heads=2, positions="learned").periods is None
    with pytest.raises(UserError, match="wanted a multiple of 3"):
        DinoViT(width=40, depth=1, heads=3, positions="learned")
