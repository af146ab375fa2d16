from __future__ import annotations

import pytest
import torch

from medpretrain3d.backbones import DinoViT, EncoderFile, Primus, ResEnc, TokenPyramid, ViT, load_encoder
from medpretrain3d.backbones.checkpoints.fitting import fit_channels
from medpretrain3d.configurable import to_config
from medpretrain3d.errors import UserError


def encoder_of(backbone) -> EncoderFile:
    return EncoderFile(to_config(backbone), backbone.state_dict(), {}, "0" * 64)


def test_channels_are_repeated_and_divided_or_added():
    weight = torch.randn(2, 1, 3, 3, 3)
    assert torch.equal(fit_channels(weight, 4), weight.repeat(1, 4, 1, 1, 1) / 4)
    three = torch.randn(2, 3, 3, 3, 3)
    assert torch.equal(fit_channels(three, 1), three.sum(dim=1, keepdim=True))
    assert torch.equal(fit_channels(three, 2), three)  # no way to do it: left for the comparison of shapes


def test_more_and_fewer_stages_are_told():
    short = ResEnc(None, channels=(8, 16, 32), blocks=(1, 1, 1))
    long = ResEnc("XXS")
    report = load_encoder(long, encoder_of(short))
    assert report.fresh == {"stages.3": 11}
    assert report.matched == len(short.state_dict())
    report = load_encoder(short, encoder_of(long))
    assert report.unused == {"encoder.stages.3": 11}
    assert report.matched == report.total
    assert torch.equal(short.stem.convs[0].conv.weight, long.stem.convs[0].conv.weight)


def test_strides_that_differ_are_told_since_no_shape_shows_them():
    report = load_encoder(
        ResEnc("XXS", strides=[(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2)]), encoder_of(ResEnc("XXS"))
    )
    assert len(report.notes) == 1
    assert report.notes[0].startswith("levels have strides [(1, 1, 1), (1, 2, 2)")
    halving = ResEnc("XXS", strides=[(1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)])
    assert load_encoder(halving, encoder_of(ResEnc("XXS"))).notes == ()
    relu = load_encoder(ResEnc("XXS", negative_slope=0.0), encoder_of(ResEnc("XXS")))
    assert relu.notes == ("negative_slope is 0.0, in the file 0.01: features differ until fine-tuned",)


def test_a_pyramid_takes_the_weights_of_its_transformer():
    transformer = Primus("XXS", position_grid=(2, 2, 2))
    pyramid = TokenPyramid(Primus("XXS", position_grid=(4, 2, 2)))
    report = load_encoder(pyramid, encoder_of(transformer))
    assert report.notes == ("positions resized trilinearly in 1 tensor",)
    assert report.matched == report.total == len(transformer.state_dict())


@pytest.mark.parametrize(
    "network",
    [
        lambda grid: ViT("XXS", patch_size=(8, 8, 8), position_grid=grid),
        lambda grid: Primus("XXS", position_grid=grid, num_register_tokens=2),
        lambda grid: DinoViT(48, 2, 2, patch_size=(8, 8, 8), positions="learned", position_grid=grid),
    ],
)
def test_as_many_positions_on_another_grid_are_moved_to_their_places(network):
    source, receiver = network((2, 4, 4)), network((4, 4, 2))
    (name,) = [name for name in source.state_dict() if name.endswith("pos_embed")]
    table = source.state_dict()[name]
    num_others = table.shape[1] - 32
    # Each token's value is the middle of its cell along the last axis, from 0 to 1.
    table[:, num_others:] = ((torch.arange(4) + 0.5) / 4).repeat(8)[None, :, None]
    report = load_encoder(receiver, encoder_of(source))
    assert report.notes == ("positions resized trilinearly in 1 tensor",)
    found = receiver.state_dict()[name]
    torch.testing.assert_close(found[0, num_others:, 0], torch.tensor([0.25, 0.75]).repeat(16))
    torch.testing.assert_close(found[:, :num_others], table[:, :num_others])
    assert load_encoder(network((2, 4, 4)), encoder_of(source)).notes == ()


def test_a_wrong_shape_is_an_error_and_nothing_is_loaded():
    receiver = ResEnc("XXS")
    before = {name: value.clone() for name, value in receiver.state_dict().items()}
    wider = ResEnc(None, channels=(8, 16, 32, 64), blocks=(1, 1, 1, 1))
    with pytest.raises(UserError, match=r"of another shape \(stages\.3\.blocks\.0\.conv1\.conv\.bias: file \(64,\)"):
        load_encoder(receiver, encoder_of(wider))
    assert all(torch.equal(value, before[name]) for name, value in receiver.state_dict().items())
