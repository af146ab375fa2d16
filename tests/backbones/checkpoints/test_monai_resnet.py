"""Residual networks in MONAI's names against MONAI's own: they are none of MedicalNet's, nor BrainIAC."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import resnet18, resnet50

from medpretrain3d.backbones import ReadOptions, ResNet3D, load_encoder, read_encoder
from medpretrain3d.backbones.checkpoints.frame import turn_from
from medpretrain3d.configurable import from_config

SMALL = {"spatial_dims": 3, "n_input_channels": 1, "num_classes": 2, "widen_factor": 0.125}


def monai_resnet(make=resnet18, **options):
    torch.manual_seed(0)
    network = make(**SMALL | options)
    for name, buffer in network.named_buffers():  # statistics as training leaves them
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
        if name.endswith("running_mean"):
            buffer.uniform_(-0.1, 0.1)
    return network.double().eval()


@pytest.mark.parametrize(
    ("prefix", "make", "options"),
    [
        ("", resnet18, {}),  # with biases in its shortcuts, MONAI's default
        ("", resnet18, {"shortcut_type": "A"}),
        ("", resnet50, {"bias_downsample": False}),
        ("backbone.", resnet18, {}),  # BrainIAC has 50 layers
        ("backbone.", resnet50, {"n_input_channels": 2}),
        ("model.encoder.", resnet50, {}),
    ],
)
def test_a_resnet_of_monai_has_monais_features_and_nobodys_data(prefix, make, options, tmp_path):
    theirs = monai_resnet(make, **options)
    torch.save({"state_dict": {f"{prefix}{name}": one for name, one in theirs.state_dict().items()}}, tmp_path / "n.pt")
    encoder = read_encoder(tmp_path / "n.pt", ReadOptions(orientation="SPL"))
    assert encoder.format == "MONAI ResNet"
    assert (encoder.card["pretraining"], encoder.card["licence"], encoder.card["citations"]) == ({}, None, [])
    assert "restriction" not in encoder.card
    backbone = from_config(encoder.architecture).double().eval()
    report = load_encoder(backbone, encoder)
    assert report.matched == report.total
    x = torch.randn(1, theirs.conv1.in_channels, 16, 16, 32, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        y = theirs.act(theirs.bn1(theirs.conv1(x)))
        expected, y = [y], theirs.maxpool(y)
        for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
            expected.append(y := stage(y))
        for a, b in zip(backbone(x), expected, strict=True):
            assert (a - b).abs().max() < 1e-6 * b.abs().max()


def test_axes_and_strides_are_assumed(tmp_path):
    torch.save(monai_resnet().state_dict(), tmp_path / "n.pt")
    encoder = read_encoder(tmp_path / "n.pt")
    assert any("axes RAS assumed" in note for note in encoder.notes)
    plain = read_encoder(tmp_path / "n.pt", ReadOptions(orientation="SPL"))
    assert torch.equal(encoder.weights["conv1.weight"], turn_from("RAS").volume(plain.weights["conv1.weight"]))
    strided = ResNet3D(18, shortcut="B", width=8)
    report = str(load_encoder(strided, encoder))
    assert "levels have strides [(2, 2, 2), (4, 4, 4)" in report
    assert "no tensor of the file tells its own" in report
    assert "features differ" not in report
