from __future__ import annotations

import pytest
import torch

from medpretrain3d.backbones import (
    DinoViT,
    EncoderFile,
    GenesisUNet,
    Primus,
    ResEnc,
    ResNet3D,
    TokenPyramid,
    ViT,
    load_encoder,
)
from medpretrain3d.backbones.checkpoints.fitting import fit_channels
from medpretrain3d.backbones.checkpoints.model_card import model_card
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


def test_depth_groups_are_taken_from_the_input_and_those_behind_stay_random():
    torch.manual_seed(0)
    theirs, ours = ResEnc("XXS"), ResEnc("XXS")  # stem and four stages
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    report = load_encoder(ours, encoder_of(theirs), num_groups=3)
    for name, tensor in ours.state_dict().items():
        is_taken = name.startswith(("stem.", "stages.0.", "stages.1."))
        assert torch.equal(tensor, (theirs.state_dict() if is_taken else before)[name])
    assert set(report.fresh) == {"stages.2", "stages.3"}
    assert report.matched == report.total - sum(report.fresh.values())
    assert "3 of 5 depth groups taken, others keep random values" in str(report)
    assert load_encoder(ours, encoder_of(theirs), num_groups=5).fresh == {}
    for refused in (0, 6):
        with pytest.raises(UserError, match=rf"init_groups {refused}: the encoder has 5 depth groups; take 1 \.\. 5"):
            load_encoder(ours, encoder_of(theirs), num_groups=refused)


def training_norms(backbone) -> list[str]:
    norms = torch.nn.BatchNorm3d
    return [name for name, module in backbone.train().named_modules() if isinstance(module, norms) and module.training]


def test_batch_norms_without_statistics_of_the_file_go_by_those_of_each_batch():
    depth = ResNet3D(10, width=4)
    num_groups = len(depth.depth_groups()) - 1
    last = depth.depth_groups()[-1]
    report = load_encoder(depth, encoder_of(ResNet3D(10, width=4)), num_groups=num_groups)
    fresh = training_norms(depth)
    modules = dict(depth.named_modules())
    assert fresh
    assert all(any(modules[name].weight is parameter for parameter in last) for name in fresh)
    assert f"{len(fresh)} batch norms came with no statistics" in str(report)


@pytest.mark.parametrize("class_path", ["medpretrain3d.backbones.ViT", "medpretrain3d.backbones.vit.ViT"])
def test_a_file_may_name_a_class_by_its_package_and_leave_out_defaults(class_path):
    source = ViT("XXS", patch_size=(8, 8, 8))  # its grid is 6 x 6 x 6
    short = {"class_path": class_path, "init_args": {"preset": "XXS", "patch_size": [8, 8, 8]}}
    # As many tokens at other places: what is left out is no grid like any other.
    ours, theirs = (ViT("XXS", patch_size=(8, 8, 8), position_grid=(12, 6, 3)) for _ in range(2))
    reports = [
        load_encoder(ours, EncoderFile(short, source.state_dict(), {}, "0" * 64)),
        load_encoder(theirs, encoder_of(source)),
    ]
    assert str(reports[0]) == str(reports[1])
    assert "positions resized trilinearly in 1 tensor" in reports[0].notes
    assert torch.equal(ours.pos_embed, theirs.pos_embed)


def test_a_file_may_leave_out_all_arguments():
    bare = {"class_path": "medpretrain3d.backbones.GenesisUNet"}
    source = GenesisUNet()
    encoder = EncoderFile(bare, source.state_dict(), {}, "0" * 64)
    report = load_encoder(GenesisUNet(), encoder)
    assert report.matched == report.total
    assert "medpretrain3d.backbones.GenesisUNet()" in model_card(encoder, "mine")
