"""Dense features of a transformer: several blocks, and patches of another size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from medpretrain3d.backbones import DinoViT, EncoderFile, Primus, TokenPyramid, ViT, load_encoder
from medpretrain3d.backbones.checkpoints.topology import fit_patch
from medpretrain3d.configurable import to_config
from medpretrain3d.errors import UserError

SMALL = {"width": 24, "depth": 3, "heads": 2, "num_register_tokens": 1, "layer_scale": 1.0}


def image(*shape: int) -> torch.Tensor:
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ViT("XXS", patch_size=(8, 8, 8), position_grid=(2, 2, 2)),
        lambda: Primus("XXS", position_grid=(2, 2, 2), num_register_tokens=1),
        lambda: DinoViT(**DinoViT.tiny),
    ],
    ids=["ViT", "Primus", "DinoViT"],
)
def test_a_mixture_of_blocks_begins_as_the_last_one_and_learns(make):
    pyramids = []
    for blocks in (None, [0, 1]):
        torch.manual_seed(0)
        backbone = make()
        torch.manual_seed(1)
        pyramids.append(TokenPyramid(backbone, num_finer=1, num_coarser=0, blocks=blocks))
    alone, joined = pyramids
    joined.finer.load_state_dict(alone.finer.state_dict())
    x = image(16, 16, 16)
    for a, b in zip(alone.eval()(x), joined.eval()(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    torch.stack([one.square().mean() for one in joined(x)]).sum().backward()
    assert all(parameter.grad is not None for parameter in joined.parameters())
    assert joined.mixture.weight.grad[:, : backbone.width].abs().sum() > 0
    groups = [parameter for group in joined.depth_groups() for parameter in group]
    assert len(groups) == len(list(joined.parameters()))


def test_blocks_that_are_not_there_or_leave_out_the_last_are_refused():
    for blocks in ([], [0], [0, 2]):
        with pytest.raises(UserError, match="1 among them"):
            TokenPyramid(DinoViT(**DinoViT.tiny), blocks=blocks)


@pytest.mark.parametrize("patch", [(16, 16, 16), (14, 20, 17)])
def test_a_stretched_patch_has_the_token_that_it_had(patch):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 2, 14, 14, 14, generator=generator, dtype=torch.float64)
    voxels = torch.randn(1, 2, 14, 14, 14, generator=generator, dtype=torch.float64)
    stretched = F.interpolate(voxels, size=patch, mode="trilinear")
    expected = F.conv3d(voxels, weight)
    torch.testing.assert_close(F.conv3d(stretched, fit_patch(weight, patch)), expected, rtol=1e-9, atol=1e-9)


def test_the_pseudo_inverse_of_all_axes_is_that_of_each():
    weight = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = torch.eye(64, dtype=torch.float64).reshape(64, 1, 4, 4, 4)
    matrix = F.interpolate(basis, size=(2, 3, 6), mode="trilinear").reshape(64, -1).T
    expected = weight.flatten(2) @ torch.linalg.pinv(matrix)
    torch.testing.assert_close(fit_patch(weight, (2, 3, 6)).flatten(2), expected)


def test_a_file_of_patch_14_fills_one_of_16_whose_pyramid_reaches_full_resolution():
    torch.manual_seed(0)
    theirs = DinoViT(**SMALL, patch_size=(14, 14, 14)).eval()
    encoder = EncoderFile(to_config(theirs), theirs.state_dict(), card={}, sha256="0" * 64)
    pyramid = TokenPyramid(DinoViT(**SMALL, patch_size=(16, 16, 16)), num_finer=4, num_coarser=0).eval()
    report = load_encoder(pyramid, encoder, topology="adapt")
    assert report.matched == report.total
    assert "patch 14x14x14 to 16x16x16 by FlexiViT's pseudo-inverse" in str(report)
    assert pyramid.levels[0].stride == (1, 1, 1)
    x = image(28, 28, 42)
    cells = x.unfold(2, 14, 14).unfold(3, 14, 14).unfold(4, 14, 14)  # each patch stretched by itself
    patches = F.interpolate(cells.flatten(0, 4)[:, None], size=(16, 16, 16), mode="trilinear")
    stretched = patches.reshape(1, 1, 2, 2, 3, 16, 16, 16).permute(0, 1, 2, 5, 3, 6, 4, 7).reshape(1, 1, 32, 32, 48)
    with torch.no_grad():
        assert (pyramid.backbone(stretched)[0] - theirs(x)[0]).abs().max() < 1e-4
    with pytest.raises(UserError, match="no finer one by halving"):
        TokenPyramid(DinoViT(**SMALL, patch_size=(14, 14, 14)), num_finer=2)


def test_flat_patches_finish_an_axis_before_the_others():
    pyramid = TokenPyramid(DinoViT(**SMALL, patch_size=(4, 8, 8)), num_finer=3)
    strides = [level.stride for level in pyramid.levels]
    assert strides == [(1, 1, 1), (1, 2, 2), (2, 4, 4), (4, 8, 8), (8, 16, 16)]
