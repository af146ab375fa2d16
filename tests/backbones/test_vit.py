from __future__ import annotations

import pytest
import torch

from medpretrain3d.backbones import TokenPyramid, ViT
from medpretrain3d.backbones.tokens import resize_positions
from medpretrain3d.errors import UserError

ALL_OF_8 = torch.arange(8)[None]


def tiny(**options) -> ViT:
    torch.manual_seed(0)
    return ViT("XXS", patch_size=(8, 8, 8), position_grid=(2, 2, 2), **options)


def test_vit_b_has_85_million_parameters_in_its_blocks():
    with torch.device("meta"):
        vit = ViT("B")
    # Per block: qkv 3c(c+1), projection c(c+1), two norms 4c, mlp 8c^2 + 5c.
    c = 768
    assert sum(p.numel() for p in vit.blocks.parameters()) == 12 * (12 * c * c + 13 * c)
    assert vit.num_parameters() == 12 * (12 * c * c + 13 * c) + 2 * c + (16**3 + 1) * c + 6**3 * c


def test_hidden_voxels_change_no_visible_feature():
    vit = tiny()
    keep = torch.tensor([[5, 0, 6]])
    image = torch.randn(1, 1, 16, 16, 16)
    other = torch.randn(1, 1, 16, 16, 16)
    # Tokens are in the order (d h w): 5 is (1, 0, 1), 0 is (0, 0, 0), 6 is (1, 1, 0).
    for d, h, w in [(1, 0, 1), (0, 0, 0), (1, 1, 0)]:
        cell = (..., slice(8 * d, 8 * d + 8), slice(8 * h, 8 * h + 8), slice(8 * w, 8 * w + 8))
        other[cell] = image[cell]
    grid = vit.grid((16, 16, 16))
    seen = [vit.encode(vit.embed(x), grid, keep) for x in (image, other)]
    assert torch.equal(seen[0], seen[1])
    assert seen[0].shape == (1, 3, 48)


def test_keeping_every_token_is_keeping_all_in_any_order():
    vit = tiny().double()
    tokens = vit.embed(torch.randn(1, 1, 16, 16, 16, dtype=torch.float64))
    everything = vit.encode(tokens, (2, 2, 2))
    torch.testing.assert_close(vit.encode(tokens, (2, 2, 2), ALL_OF_8), everything)
    torch.testing.assert_close(vit.encode(tokens, (2, 2, 2), ALL_OF_8.flip(1)), everything.flip(1))


def test_the_map_holds_each_token_where_its_patch_lies():
    vit = tiny()
    image = torch.randn(1, 1, 8, 16, 24)
    tokens = vit.encode(vit.embed(image), (1, 2, 3))
    (found,) = vit(image)
    assert found.shape == (1, 48, 1, 2, 3)
    assert torch.equal(found[0, :, 0, 1, 2], tokens[0, 5])


def test_positions_for_another_grid_are_interpolated_between_cell_centres():
    table = torch.tensor([0.0, 1.0])[None, :, None].expand(1, 2, 1)  # along W
    # Centres of four cells over two: -1/4, 1/4, 3/4, 5/4 of the way from the first to the second, clamped at the ends.
    assert resize_positions(table, (1, 1, 2), (1, 1, 4)).flatten().tolist() == [0.0, 0.25, 0.75, 1.0]
    assert resize_positions(table, (1, 1, 2), (1, 1, 2)) is table


def test_pyramid_has_finer_and_coarser_levels_and_keeps_the_transformers_map():
    pyramid = TokenPyramid(tiny(), num_finer=3)
    assert [(level.channels, level.stride[0]) for level in pyramid.levels] == [
        (6, 1),
        (12, 2),
        (24, 4),
        (48, 8),
        (48, 16),
    ]
    image = torch.randn(1, 1, 16, 16, 16)
    maps = pyramid(image)
    assert torch.equal(maps[3], pyramid.encoder(image)[0])
    assert torch.equal(maps[4].flatten(), maps[3].amax(dim=(2, 3, 4)).flatten())


def test_pyramid_of_an_anisotropic_patch_stops_halving_an_axis_at_full_resolution():
    vit = ViT("XXS", patch_size=(2, 8, 8))
    pyramid = TokenPyramid(vit, num_finer=3, num_coarser=0)
    assert [level.stride for level in pyramid.levels] == [(1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8)]
    with pytest.raises(UserError, match=r"num_finer 4.*stride \(1, 1, 1\)"):
        TokenPyramid(vit, num_finer=4)


def test_an_unknown_preset_is_named():
    with pytest.raises(UserError, match="wanted one of XXS"):
        ViT("huge")  # type: ignore[arg-type]
