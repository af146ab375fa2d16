from __future__ import annotations

import pytest
import torch

from medpretrain3d.backbones import ResEnc
from medpretrain3d.errors import UserError
from medpretrain3d.objectives import MAE
from medpretrain3d.objectives.decoders import UNetDecoder
from medpretrain3d.objectives.masked import masked_mse
from medpretrain3d.objectives.masking import counter_random, expand_blocks, random_block_mask


def batch(size: int = 16, count: int = 2) -> dict[str, torch.Tensor]:
    return {"image": torch.rand(count, 1, size, size, size) * 2 - 1, "seed": torch.arange(count)}


def tiny() -> MAE:
    torch.manual_seed(0)
    return MAE(ResEnc("XXS"), mask_block=(8, 8, 8))


def test_u_net_of_resenc_l_has_the_published_number_of_parameters():
    with torch.device("meta"):
        objective = MAE(ResEnc("L"))
    # The published 102,348,965 include the unused outputs of the four coarser decoder stages:
    # (320 + 1) + (256 + 1) + (128 + 1) + (64 + 1) = 772.
    assert sum(parameter.numel() for parameter in objective.parameters()) == 102_348_965 - 772


def test_mask_hides_the_asked_share_of_every_sample():
    hidden = random_block_mask(torch.arange(5), (32, 48, 64), (16, 16, 16), 0.75)
    assert hidden.shape == (5, 2, 3, 4)
    assert hidden.flatten(1).sum(1).tolist() == [18] * 5  # 0.75 * 24
    assert len({tuple(row.tolist()) for row in hidden.flatten(1)}) == 5


def test_mask_depends_on_the_seed_alone():
    seeds = torch.tensor([3, 9, 3])
    hidden = random_block_mask(seeds, (32, 32, 32), (8, 8, 8), 0.6)
    assert torch.equal(hidden[0], hidden[2])
    assert torch.equal(hidden[1:2], random_block_mask(seeds[1:2], (32, 32, 32), (8, 8, 8), 0.6))


def test_every_block_is_hidden_equally_often():
    hidden = random_block_mask(torch.arange(20_000), (48, 48, 48), (16, 16, 16), 0.75).flatten(1).float()
    # 20 of 27 blocks; the standard error over 20,000 seeds is 0.003.
    assert (hidden.mean(0) - 20 / 27).abs().max() < 5 * 0.0031


def test_counter_random_is_splitmix64():
    # SplitMix64 seeded with 0 starts 0xE220A8397B1DCDAF; the seed 0 is a fixed point of our mixing.
    assert counter_random(torch.tensor([0]), 1).item() == 0xE220A8397B1DCDAF - (1 << 64)


def test_expanded_mask_is_the_block_mask_voxel_by_voxel():
    hidden = random_block_mask(torch.tensor([1]), (4, 6, 8), (2, 3, 4), 0.5)
    voxels = expand_blocks(hidden, (2, 3, 4))
    assert voxels.shape == (1, 1, 4, 6, 8)
    for d in range(4):
        for h in range(6):
            for w in range(8):
                assert voxels[0, 0, d, h, w] == hidden[0, d // 2, h // 3, w // 4]


def test_masked_mse_by_hand():
    image = torch.zeros(1, 1, 1, 1, 4)
    restored = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 1, 4)
    hidden = torch.tensor([True, False, True, False]).reshape(1, 1, 1, 1, 4)
    assert masked_mse(restored, image, hidden).item() == (1 + 9) / 2


def test_hidden_voxels_change_no_feature_and_visible_ones_no_target():
    objective, data = tiny(), batch()
    hidden = expand_blocks(random_block_mask(data["seed"], (16, 16, 16), (8, 8, 8), 0.75), (8, 8, 8))
    other = torch.where(hidden, torch.rand_like(data["image"]), data["image"])
    for a, b in zip(
        objective.backbone(data["image"].masked_fill(hidden, 0.0)),
        objective.backbone(other.masked_fill(hidden, 0.0)),
        strict=True,
    ):
        assert torch.equal(a, b)
    preview = objective(data).preview
    visible = ~hidden[0, 0]
    assert torch.equal(preview["restored"][visible], preview["input"][visible])
    assert (preview["masked"][hidden[0, 0]] == 0).all()


def test_every_parameter_gets_a_gradient():
    objective = tiny()
    objective(batch()).loss.backward()
    assert not [name for name, parameter in objective.named_parameters() if parameter.grad is None]


def test_thirty_steps_lower_the_loss():
    objective = tiny()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    smooth = torch.linspace(-1, 1, 16).reshape(1, 1, 16, 1, 1).expand(2, 1, 16, 16, 16)
    losses = []
    for step in range(30):
        loss = objective({"image": smooth, "seed": torch.arange(2) + 2 * step}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_loss_is_fp32_under_bf16_autocast():
    objective = tiny()
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective(batch(size=8 * 3)).loss
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


def test_decoder_upsamples_anisotropic_pyramids():
    backbone = ResEnc("XXS", strides=[(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2)])
    decoder = UNetDecoder(backbone.levels, out_channels=3)
    assert decoder(backbone(torch.randn(1, 1, 8, 16, 16))).shape == (1, 3, 8, 16, 16)


def test_bad_settings_are_named():
    with pytest.raises(UserError, match=r"mask_ratio 1\.5"):
        MAE(ResEnc("XXS"), mask_ratio=1.5)
    with pytest.raises(UserError, match="no multiple of the mask block"):
        random_block_mask(torch.tensor([0]), (16, 20, 16), (8, 8, 8), 0.75)
    with pytest.raises(UserError, match="hides 1 of 1 blocks"):
        random_block_mask(torch.tensor([0]), (8, 8, 8), (8, 8, 8), 0.75)


def test_a_pyramid_below_full_resolution_is_restored_at_it():
    objective = MAE(ResEnc("XXS", strides=[(1, 2, 2), *[(2, 2, 2)] * 3]), mask_block=(8, 8, 8))
    assert objective.decoder(objective.backbone(torch.zeros(1, 1, 16, 32, 16))).shape == (1, 1, 16, 32, 16)
