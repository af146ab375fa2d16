from __future__ import annotations

import pytest
import torch
from torch import nn

from medpretrain3d.backbones import GenesisUNet, InflatedCNN, ResEnc, ViT
from medpretrain3d.errors import UserError
from medpretrain3d.objectives import SparK
from medpretrain3d.objectives.masking import expand_blocks, random_block_mask
from medpretrain3d.objectives.sparse import VisibleBlocks, visible_features
from tests.tiny import tiny_backbone
from tests.tiny_objectives import PATCHES, refusal, tiny_batch


def half_hidden(name: str):
    """A backbone, a crop with other sizes along its axes, and a mask over blocks of the coarsest stride."""
    backbone = tiny_backbone(name)
    image = tiny_batch(name)["image"]
    block = backbone.levels[-1].stride
    return backbone, image, random_block_mask(torch.tensor([5, 6]), PATCHES[name], block, 0.5), block


SPARSE = [name for name in PATCHES if not refusal(SparK, name)]


@pytest.mark.parametrize("name", SPARSE)
def test_hidden_voxels_change_no_feature_at_any_stage(name):
    backbone, image, hidden, block = half_hidden(name)
    other = torch.where(expand_blocks(hidden, block), torch.full_like(image, 1e6), image)
    with torch.no_grad():
        for a, b in zip(
            visible_features(backbone, image, hidden, block)[0],
            visible_features(backbone, other, hidden, block)[0],
            strict=True,
        ):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", SPARSE)
def test_with_nothing_hidden_it_is_the_dense_network(name):
    backbone, image, hidden, block = half_hidden(name)
    with torch.no_grad():
        dense = backbone(image)
        sparse, _ = visible_features(backbone, image, torch.zeros_like(hidden), block)
        assert all(torch.equal(a, b) for a, b in zip(dense, sparse, strict=True))
        # Also cut into blocks that are put together again; sums run in another order, hence double precision.
        backbone, image = backbone.double(), image.double()
        dense = backbone(image)
        blocks = VisibleBlocks(torch.zeros_like(hidden), block)
        with blocks:
            gathered = backbone(blocks.gather(image))
    for a, b in zip(dense, gathered, strict=True):
        torch.testing.assert_close(blocks.scatter(b, a.new_zeros(a.shape[1])), a, rtol=1e-9, atol=1e-9)


class Masked(nn.Module):
    """The textbook form: a convolution whose result is multiplied by the mask, a norm over what the mask leaves."""

    def __init__(self, inner: nn.Module, visible: torch.Tensor) -> None:
        super().__init__()
        self.inner, self.visible = inner, visible  # (B, 1, D, H, W) of ones and zeros

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stride = [full // size for full, size in zip(self.visible.shape[2:], x.shape[2:], strict=True)]
        if isinstance(self.inner, nn.Conv3d):
            stride = [a * b for a, b in zip(stride, self.inner.stride, strict=True)]
            return self.inner(x) * self.visible[:, :, :: stride[0], :: stride[1], :: stride[2]]
        seen = self.visible[:, :, :: stride[0], :: stride[1], :: stride[2]]
        count = seen.sum((2, 3, 4), keepdim=True)
        mean = (x * seen).sum((2, 3, 4), keepdim=True) / count
        variance = ((x - mean).square() * seen).sum((2, 3, 4), keepdim=True) / count
        normed = (x - mean) / (variance + self.inner.eps).sqrt()
        scale, shift = (p[:, None, None, None] for p in (self.inner.weight, self.inner.bias))
        return (normed * scale + shift) * seen


def masked_copy(module: nn.Module, visible: torch.Tensor) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Conv3d | nn.GroupNorm):
            setattr(module, name, Masked(child, visible))
        else:
            masked_copy(child, visible)


@pytest.mark.parametrize("name", ["ResEnc", "ResEnc anisotropic", "PlainConv"])
def test_gathered_blocks_give_the_features_and_gradients_of_the_masked_network(name):
    backbone, image, hidden, block = half_hidden(name)
    twin = tiny_backbone(name).double()
    backbone, image = backbone.double(), image.double()
    features, blocks = visible_features(backbone, image, hidden, block)
    ours = [blocks.scatter(x, x.new_zeros(x.shape[1])) for x in features]
    visible = (~expand_blocks(hidden, block)).double()
    parameters = list(twin.parameters())
    masked_copy(twin, visible)
    theirs = twin(image * visible)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    sum(x.square().sum() for x in ours).backward()
    sum(x.square().sum() for x in theirs).backward()
    for a, b in zip(backbone.parameters(), parameters, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-6)


def test_margins_reach_over_several_blocks():
    # A kernel of 5 on blocks of one voxel sees neighbours two blocks away.
    conv = nn.Conv3d(2, 3, 5, padding=2).double()
    volume = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
    blocks = VisibleBlocks(torch.zeros(2, 3, 4, 5, dtype=torch.bool), (1, 1, 1))
    with blocks:
        out = conv(blocks.gather(volume))
    torch.testing.assert_close(blocks.scatter(out, torch.zeros(3, dtype=torch.float64)), conv(volume))


def test_checkpointing_computes_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        objective = SparK(tiny_backbone("ResEnc", checkpointing=checkpointing), 0.5)
        torch.manual_seed(1)
        for parameter in objective.decoder.parameters():
            nn.init.normal_(parameter, std=0.1)
        for parameter in objective.densify.parameters():
            nn.init.normal_(parameter, std=0.1)
        objective(tiny_batch("ResEnc")).loss.backward()
        gradients.append([parameter.grad for parameter in objective.parameters()])
    for plain, saving in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, saving)


def test_hidden_places_hold_the_token_and_visible_ones_a_norm():
    objective = SparK(ResEnc("XXS"), 0.5)
    image = tiny_batch("ResEnc")["image"]
    hidden = random_block_mask(torch.tensor([5, 6]), (16, 16, 16), (8, 8, 8), 0.5)
    features, blocks = visible_features(objective.backbone, image, hidden, (8, 8, 8))
    dense = objective.densify[0](features[0], blocks).detach()
    where = expand_blocks(hidden, (8, 8, 8))[:, 0]
    assert torch.equal(dense.movedim(1, -1)[where].unique(dim=0), objective.densify[0].mask_token.detach()[None])
    seen = dense[0][:, ~where[0]]  # (C, visible voxels)
    torch.testing.assert_close(seen.mean(1), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.var(1, correction=0), torch.ones(8), atol=1e-2, rtol=0)


def test_the_backbone_stays_the_plain_network():
    assert SparK(GenesisUNet(width=8)).backbone.state_dict().keys() == GenesisUNet(width=8).state_dict().keys()


def test_bad_settings_are_named():
    with pytest.raises(UserError, match="got ViT, wanted a convolutional network"):
        SparK(ViT("XXS"))
    with pytest.raises(UserError, match="no sparse form; use MAE"):
        SparK(InflatedCNN("test_resnet"))
    with pytest.raises(UserError, match=r"wanted a multiple of \(8, 8, 8\), the coarsest stride"):
        SparK(ResEnc("XXS"), mask_block=(8, 8, 4))
    blocks = VisibleBlocks(torch.zeros(1, 2, 2, 2, dtype=torch.bool), (4, 4, 4))
    with blocks, pytest.raises(UserError, match="'instance_norm', which has no sparse form"):
        nn.InstanceNorm3d(1)(torch.zeros(8, 1, 4, 4, 4))
