"""ViTs in MONAI's names, wherever they stand, against MONAI's own."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import ViT as MonaiViT
from torch import Tensor

from medpretrain3d.backbones import ReadOptions, load_encoder, read_encoder
from medpretrain3d.backbones.checkpoints.frame import turn_from
from medpretrain3d.configurable import from_config
from medpretrain3d.errors import UserError

SMALL = {"in_channels": 1, "hidden_size": 128, "mlp_dim": 512, "num_layers": 2, "num_heads": 2}


def image(*shape: int) -> Tensor:
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(1)).double()


def monai_vit(**arguments) -> MonaiViT:
    torch.manual_seed(0)
    return MonaiViT(**SMALL | arguments).double().eval()


@pytest.mark.parametrize(
    ("prefix", "options"),
    [
        ("", {"proj_type": "conv", "qkv_bias": True}),
        ("vit.", {"proj_type": "perceptron"}),
        ("encoder.", {"proj_type": "perceptron", "classification": True}),
    ],
)
def test_a_vit_of_monai_sees_a_turned_volume_as_it_saw_its_own(prefix, options, tmp_path):
    theirs = monai_vit(img_size=(24, 24, 24), patch_size=(8, 8, 8), **options)
    weights = {f"{prefix}{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"state_dict": weights | {"decoder.weight": torch.zeros(2)}}, tmp_path / "vit.pt")
    encoder = read_encoder(tmp_path / "vit.pt")
    assert encoder.format == "MONAI ViT"
    assert encoder.unused["decoder"] == 1
    backbone = from_config(encoder.architecture).double().eval()
    report = load_encoder(backbone, encoder)
    assert report.matched == report.total
    x, turn = image(24, 24, 24), turn_from("RAS")
    with torch.no_grad():
        features = theirs(x)[1][-1] if not options.get("classification") else hidden(theirs, x)
        tokens = theirs.norm(features)[:, 1:] if options.get("classification") else theirs(x)[0]
        expected = turn.volume(tokens.transpose(1, 2).unflatten(2, (3, 3, 3)))
        assert (backbone(turn.volume(x))[0] - expected).abs().max() < 1e-6 * expected.abs().max()


def hidden(theirs: MonaiViT, x: Tensor) -> Tensor:
    """Tokens behind the last block: with a class token MONAI hands out its head's answer alone."""
    x = theirs.patch_embedding(x)
    x = torch.cat((theirs.cls_token.expand(len(x), -1, -1), x), dim=1)
    for block in theirs.blocks:
        x = block(x)
    return x


def test_segvol_has_flat_patches_and_axes_of_its_own(tmp_path):
    theirs = monai_vit(img_size=(32, 256, 256), patch_size=(4, 16, 16), proj_type="perceptron", qkv_bias=False)
    weights = {f"model.encoder.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / "SegVol_v1.pth")
    encoder = read_encoder(tmp_path / "SegVol_v1.pth")
    assert encoder.format == "SegVol checkpoint"
    assert encoder.architecture["init_args"]["patch_size"] == [4, 16, 16]  # (S, A, R) keeps its first axis
    backbone = from_config(encoder.architecture).double().eval()
    report = load_encoder(backbone, encoder)
    assert report.matched == report.total
    x, turn = image(32, 256, 256), turn_from("SAR")
    with torch.no_grad():
        expected = turn.volume(theirs(x)[0].transpose(1, 2).unflatten(2, (8, 16, 16)))
        assert (backbone(turn.volume(x))[0] - expected).abs().max() < 1e-6 * expected.abs().max()
    asked = read_encoder(tmp_path / "SegVol_v1.pth", ReadOptions(orientation="SPL"))
    assert asked.card["preprocessing"]["orientation"] == "SPL"


@pytest.mark.parametrize("channels", [2, 4])
def test_a_linear_embedding_of_several_channels_is_no_segvol(channels, tmp_path):
    """Two channels in cubes of 8 are 1024 numbers, as one is in SegVol's patches of 4 x 16 x 16."""
    theirs = monai_vit(img_size=(24, 24, 24), patch_size=(8, 8, 8), proj_type="perceptron", in_channels=channels)
    torch.save(theirs.state_dict(), tmp_path / "vit.pt")
    encoder = read_encoder(tmp_path / "vit.pt")
    assert encoder.format == "MONAI ViT"
    assert (encoder.card["pretraining"], encoder.card["citations"]) == ({}, [])
    assert any(f"{channels} channels and patches of 8 x 8 x 8 assumed" in note for note in encoder.notes)
    backbone = from_config(encoder.architecture).double().eval()
    assert backbone.in_channels == channels
    load_encoder(backbone, encoder)
    x, turn = torch.cat([image(24, 24, 24) * (one + 1) for one in range(channels)], dim=1), turn_from("RAS")
    with torch.no_grad():
        expected = turn.volume(theirs(x)[0].transpose(1, 2).unflatten(2, (3, 3, 3)))
        assert (backbone(turn.volume(x))[0] - expected).abs().max() < 1e-6 * expected.abs().max()


def test_heads_that_are_assumed_are_no_fact(tmp_path):
    theirs = monai_vit(img_size=(16, 32, 32), patch_size=(4, 8, 8), proj_type="conv")
    torch.save(theirs.state_dict(), tmp_path / "vit.pt")
    encoder = read_encoder(tmp_path / "vit.pt")
    arguments = encoder.architecture["init_args"]
    other = from_config({**encoder.architecture, "init_args": {**arguments, "heads": 2 * arguments["heads"]}})
    report = str(load_encoder(other, encoder))
    assert "heads is 4, and no tensor of the file tells its own (2 was assumed)" in report
    assert "features differ" not in report


def test_a_patch_that_no_tensor_shows_is_refused(tmp_path):
    theirs = monai_vit(img_size=(8, 16, 16), patch_size=(4, 8, 8), proj_type="perceptron")
    torch.save(theirs.state_dict(), tmp_path / "vit.pt")
    with pytest.raises(UserError, match="embeds 256 numbers per patch"):
        read_encoder(tmp_path / "vit.pt")
