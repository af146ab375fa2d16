"""MAE, SimMIM and slices on transformers; what all masked objectives share."""

from __future__ import annotations

import re

import pytest
import torch

from medpretrain3d.backbones import ResEnc, ViT
from medpretrain3d.errors import UserError
from medpretrain3d.objectives import MAE, SimMIM, SliceWise, SparK
from medpretrain3d.objectives.decoders import sine_cosine_positions
from medpretrain3d.objectives.masked import block_statistics, hidden_tokens, visible_index
from medpretrain3d.objectives.masking import expand_blocks, hidden_share, random_block_mask
from tests.tiny_objectives import tiny_batch, tiny_objective

TOKENS = ["ViT", "ViT anisotropic", "Primus"]


def masks(objective, shape, seeds=(5, 6)):
    """Hidden voxels (B, 1, D, H, W) and hidden tokens (B, N)."""
    block, patch = objective.block(shape), objective.backbone.levels[0].stride
    hidden = random_block_mask(torch.tensor(seeds), shape, block, 0.5)
    return expand_blocks(hidden, block), hidden_tokens(hidden, block, patch).flatten(1)


@pytest.mark.parametrize("name", TOKENS)
@pytest.mark.parametrize("cls", [MAE, SimMIM, SliceWise])
def test_the_voxels_of_the_loss_are_those_of_the_hidden_tokens(cls, name):
    objective = tiny_objective(cls, name)
    image = tiny_batch(name)["image"]
    voxels, tokens = masks(objective, tuple(image.shape[2:]))
    embed = objective.backbone.embed
    changed = (embed(image) != embed(torch.where(voxels, image + 1, image))).any(-1)
    assert torch.equal(changed, tokens)
    # And the decoder puts what it makes of a token where that token's voxels are.
    grid = objective.backbone.grid(tuple(image.shape[2:]))
    features = torch.zeros(2, *grid, objective.backbone.width).flatten(1, 3)
    features[tokens] = 1.0
    head = objective.head if cls is SimMIM else objective.decoder.head
    torch.nn.init.ones_(head.project.weight)
    torch.nn.init.zeros_(head.project.bias)
    restored = head(features.reshape(2, *grid, -1).movedim(-1, 1))
    assert torch.equal(restored != 0, voxels)


@pytest.mark.parametrize("name", TOKENS)
@pytest.mark.parametrize("cls", [MAE, SimMIM, SliceWise])
def test_hidden_voxels_change_no_feature(cls, name):
    objective = tiny_objective(cls, name).eval()
    image = tiny_batch(name)["image"]
    hidden = random_block_mask(torch.tensor([5, 6]), tuple(image.shape[2:]), objective.block(image.shape[2:]), 0.5)
    voxels = expand_blocks(hidden, objective.block(image.shape[2:]))
    other = torch.where(voxels, torch.full_like(image, 1e6), image)
    with torch.no_grad():
        restored = [objective.restore(x, hidden, objective.block(image.shape[2:])) for x in (image, other)]
    assert torch.equal(*restored)


def test_the_encoder_runs_on_the_visible_tokens_alone():
    objective = MAE(ViT("XXS", patch_size=(8, 8, 8)), 0.75)
    lengths = []
    objective.backbone.blocks[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    objective({"image": torch.rand(2, 1, 16, 16, 32), "seed": torch.arange(2)})
    assert lengths == [4]  # of 16


def test_visible_tokens_are_listed_in_order():
    hidden = torch.tensor([[True, False, True, False], [False, True, True, False]]).reshape(2, 1, 1, 2, 2)
    assert visible_index(hidden).tolist() == [[1, 3], [0, 3]]


def test_blocks_may_hold_several_tokens():
    objective = MAE(ViT("XXS", patch_size=(4, 8, 8)), 0.5, mask_block=(8, 8, 16))
    voxels, tokens = masks(objective, (16, 16, 32))
    assert tokens.reshape(2, 4, 2, 4).sum().item() * 4 * 8 * 8 == voxels.sum().item()
    assert torch.equal(tokens.reshape(2, 4, 2, 4), voxels[:, 0, ::4, ::8, ::8])


def test_slices_are_hidden_whole():
    objective = SliceWise(ResEnc("XXS"), slab=2, orientation="coronal")
    assert objective.block((16, 24, 32)) == (16, 2, 32)
    assert objective.patch_stride == (8, 8, 8)
    hidden = expand_blocks(random_block_mask(torch.tensor([1]), (16, 24, 32), (16, 2, 32), 0.75), (16, 2, 32))
    slices = hidden[0, 0].movedim(1, 0).flatten(1)  # (H, D W)
    assert torch.equal(slices.all(1), slices.any(1))
    assert slices.all(1).sum() == 18  # 9 of 12 slabs


def test_a_share_is_drawn_for_each_batch():
    shares = [hidden_share(torch.tensor([seed, 3]), 0.6, 0.9) for seed in range(2000)]
    assert min(shares) >= 0.6
    assert max(shares) < 0.9
    assert sum(shares) / len(shares) == pytest.approx(0.75, abs=5 * 0.3 / (12 * 2000) ** 0.5)
    assert hidden_share(torch.tensor([7, 1]), 0.6, 0.9) == hidden_share(torch.tensor([7, 9]), 0.6, 0.9)
    objective = MAE(ViT("XXS", patch_size=(8, 8, 8)), (0.2, 0.8))
    logged = [objective({"image": torch.zeros(1, 1, 16, 16, 32), "seed": torch.tensor([s])}).logs for s in range(8)]
    assert len({round(logs["hidden_share"].item(), 3) for logs in logged}) > 1


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda ratio: SparK(ResEnc("XXS"), ratio), (8, 16, 16)),
        (lambda ratio: MAE(ResEnc("XXS"), ratio, mask_block=(8, 8, 8)), (8, 16, 16)),
        (lambda ratio: SimMIM(ViT("XXS", patch_size=(8, 8, 8)), ratio, mask_block=(8, 8, 8)), (8, 16, 16)),
        (lambda ratio: SliceWise(ResEnc("XXS"), ratio, slab=4), (16, 8, 8)),
    ],
)
def test_a_pair_of_shares_hides_some_of_few_blocks_at_every_step(make, shape):
    """Of four blocks 0.6 to 0.9 are 2 to 4 rounded: that of 4 one stays visible."""
    objective = make((0.6, 0.9))
    block = objective.block(shape)
    hidden = [objective.draw_mask({"seed": torch.tensor([s])}, shape, block).sum().item() for s in range(200)]
    assert set(hidden) == {2, 3}
    for bad, count in (((0.9, 0.95), "4 to 4"), ((0.01, 0.1), "0 to 0")):
        for step in range(3):  # whatever is drawn: not at a step that the seed decides
            with pytest.raises(UserError, match=re.escape(f"mask_ratio {bad} hides {count} of 4 blocks")):
                make(bad).draw_mask({"seed": torch.tensor([step])}, shape, block)
    with pytest.raises(UserError, match=re.escape("mask_ratio (0.6, 0.9) hides 1 to 1 of 1 blocks")):
        random_block_mask(torch.tensor([0]), (8, 8, 8), (8, 8, 8), 0.7, (0.6, 0.9))


def test_normalised_targets_by_hand():
    image = torch.tensor([1.0, 3.0, 5.0, 5.0]).reshape(1, 1, 1, 1, 4)
    mean, scale = block_statistics(image, (1, 1, 2))
    assert mean.flatten().tolist() == [2, 2, 5, 5]
    torch.testing.assert_close(scale.flatten(), torch.tensor([1.0, 1.0, 0.001, 0.001]))


def test_a_restorer_of_zeros_has_the_loss_of_its_targets():
    image = torch.rand(2, 1, 16, 16, 16)
    batch = {"image": image, "seed": torch.arange(2)}

    def loss(**options):
        objective = MAE(ResEnc("XXS"), mask_block=(8, 8, 8), **options)
        objective.restore = lambda image, *_: torch.zeros_like(image)
        return objective(batch).loss.item()

    assert loss(loss_on="all") == pytest.approx(image.square().mean().item(), rel=1e-5)
    assert loss(normalize_targets=True) == pytest.approx(1.0, rel=1e-3)  # unit variance per block


def test_a_volume_of_constant_intensity_has_a_finite_loss():
    batch = {"image": torch.full((2, 1, 16, 16, 16), -1.0), "seed": torch.arange(2)}
    for objective in (
        MAE(ViT("XXS", patch_size=(8, 8, 8)), normalize_targets=True),
        MAE(ResEnc("XXS"), mask_block=(8, 8, 8), normalize_targets=True),
    ):
        assert torch.isfinite(objective(batch).loss)


def test_positions_of_the_decoder_differ_everywhere():
    table = sine_cosine_positions((2, 3, 4), 50)
    assert table.shape == (1, 24, 50)
    assert len(table[0].unique(dim=0)) == 24


def test_bad_settings_are_named():
    with pytest.raises(UserError, match=r"got mask_ratio \(0\.9, 0\.6\)"):
        MAE(ResEnc("XXS"), (0.9, 0.6))
    with pytest.raises(UserError, match="got loss_on 'visible', wanted one of hidden, all"):
        MAE(ResEnc("XXS"), loss_on="visible")
    with pytest.raises(UserError, match=r"got mask_block \(8, 8, 8\), wanted a multiple of \(16, 16, 16\)"):
        MAE(ViT("XXS"), mask_block=(8, 8, 8))
    with pytest.raises(UserError, match="SimMIM: got ResEnc, wanted one with tokens"):
        SimMIM(ResEnc("XXS"))
    with pytest.raises(UserError, match="orientation 'oblique', wanted one of axial, coronal, sagittal"):
        SliceWise(ResEnc("XXS"), orientation="oblique")
    with pytest.raises(UserError, match=r"got mask_block \(3, 16, 16\)"):
        SliceWise(ViT("XXS"), slab=3)
