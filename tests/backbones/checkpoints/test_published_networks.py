"""Checkpoints of MONAI, VoCo, SuPreM, Models Genesis, MedicalNet and timm, written here in the layout of each."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from monai.networks.nets import SegResNet as MonaiSegResNet
from monai.networks.nets import SwinUNETR as MonaiSwinUNETR
from torch import nn

from medpretrain3d.backbones import (
    GenesisUNet,
    InflatedCNN,
    ResNet3D,
    SegResNet,
    SwinUNETR,
    load_encoder,
    read_encoder,
)
from medpretrain3d.configurable import from_config
from medpretrain3d.errors import UserError


def monai_swin(is_v2: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return MonaiSwinUNETR(1, 2, feature_size=12, window_size=3, use_v2=is_v2).eval()


def prefixed(prefix: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in weights.items()}


def read(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    return read_encoder(tmp_path / "weights.pt")


def swin_layouts() -> dict[str, object]:
    """The same Swin transformer as each source publishes it."""
    weights = monai_swin().state_dict()
    inner = {name.removeprefix("swinViT."): value for name, value in weights.items() if name.startswith("swinViT.")}
    old_names = {name.replace("mlp.linear", "mlp.fc"): value for name, value in inner.items()}
    doubled = {
        name.replace(".0.", ".0.0.", 1) if name.startswith("layers") else name: value for name, value in inner.items()
    }
    heads = {"rotation_head.weight": torch.zeros(4, 192), "contrastive_head.bias": torch.zeros(512)}
    mask = {"encoder.mask_token": torch.zeros(1), "encoder.norm.weight": torch.zeros(192)}
    return {
        "MONAI Swin UNETR": weights,
        "MONAI Swin UNETR, self-supervised": {"state_dict": prefixed("module.", old_names | heads)},
        "MONAI disruptive autoencoder": {"model": prefixed("encoder.", doubled) | mask},
        "SuPreM checkpoint": {"net": prefixed("module.backbone.", weights) | {"module.organs": torch.zeros(2)}},
    }


@pytest.mark.parametrize("source", swin_layouts())
def test_each_layout_of_the_swin_transformer_gives_the_same_features(source, tmp_path):
    encoder = read(tmp_path, swin_layouts()[source])
    assert encoder.format == source
    assert encoder.architecture["init_args"]["merging"] == "published"
    today = SwinUNETR(12, window_size=(3, 3, 3)).eval()  # merges all neighbours, as MONAI has done since 1.5
    report = load_encoder(today, encoder)
    assert report.matched == report.total == len(today.state_dict())
    assert "merging is all, in the file published" in str(report)
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        for ours, theirs in zip(today(x), monai_swin().swinViT(x), strict=True):
            torch.testing.assert_close(ours, theirs)
        as_published = from_config(encoder.architecture).eval()
        load_encoder(as_published, encoder)
        assert torch.equal(as_published(x)[0], today(x)[0])
        assert not torch.allclose(as_published(x)[1], today(x)[1])


def test_voco_is_version_two_with_convolutions_between_stages(tmp_path):
    weights = monai_swin(is_v2=True).state_dict()
    released = {name: value for name, value in weights.items() if not name.startswith(("decoder", "out"))}
    encoder = read(tmp_path, released)
    assert encoder.format == "VoCo release"
    assert encoder.card["pretraining"]["paradigm"] == "voco"
    assert any("of one's own may have as well: then it is not VoCo's" in note for note in encoder.notes)
    assert encoder.architecture["init_args"]["is_v2"]
    assert set(encoder.unused) == {"encoder1", "encoder2", "encoder3", "encoder4", "encoder10"}
    backbone = SwinUNETR(12, window_size=(3, 3, 3), is_v2=True).eval()
    load_encoder(backbone, encoder)
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        for ours, theirs in zip(backbone(x), monai_swin(is_v2=True).swinViT(x), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_models_genesis_and_suprem_share_a_unet(tmp_path):
    torch.manual_seed(0)
    unet = GenesisUNet(width=8).eval()
    decoder = {"up_tr256.up_conv.weight": torch.zeros(2), "out_tr.final_conv.weight": torch.zeros(2)}
    for content, name in [
        ({"state_dict": prefixed("module.", unet.state_dict() | decoder), "epoch": 3}, "Models Genesis checkpoint"),
        ({"net": prefixed("module.backbone.", unet.state_dict() | decoder)}, "SuPreM checkpoint"),
    ]:
        encoder = read(tmp_path, content)
        assert encoder.format == name
        assert sum(encoder.unused.values()) == 2
        twin = from_config(encoder.architecture).eval()
        report = load_encoder(twin, encoder)
        assert report.matched == len(unet.state_dict())
        x = torch.randn(1, 1, 8, 8, 16)
        with torch.no_grad():
            assert all(torch.equal(a, b) for a, b in zip(unet(x), twin(x), strict=True))


def test_suprem_segresnet(tmp_path):
    torch.manual_seed(0)
    theirs = MonaiSegResNet(blocks_down=[1, 2, 2, 4], init_filters=8, in_channels=1).eval()
    encoder = read(tmp_path, {"net": prefixed("module.", theirs.state_dict())})
    backbone = SegResNet(8).eval()
    report = load_encoder(backbone, encoder)
    assert "conv_final" in report.unused
    assert "cite: Li, W." in str(report)
    x = torch.randn(1, 1, 8, 8, 16)
    with torch.no_grad():
        for a, b in zip(backbone(x), theirs.encode(x)[1], strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("depth", "shortcut"), [(18, "A"), (50, "B"), (18, "B")])
def test_medicalnet_depth_and_shortcut_are_told_from_the_tensors(depth, shortcut, tmp_path):
    torch.manual_seed(0)
    published = ResNet3D(depth, is_dilated=True, shortcut=shortcut, width=4).eval()
    content = {"state_dict": prefixed("module.", published.state_dict() | {"conv_seg.0.weight": torch.zeros(1)})}
    encoder = read(tmp_path, content)
    assert (encoder.architecture["init_args"]["depth"], encoder.unused) == (depth, {"conv_seg": 1})
    twin = from_config(encoder.architecture).eval()
    load_encoder(twin, encoder)
    x = torch.randn(1, 1, 16, 16, 32)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(published(x), twin(x), strict=True))
    strided = ResNet3D(depth, shortcut=shortcut, width=4)
    assert "is_dilated is False, in the file True" in str(load_encoder(strided, encoder))


def test_medicalnet_in_two_channels_gives_the_features_of_one(tmp_path):
    published = ResNet3D(10, width=4).eval()
    encoder = read(tmp_path, {"state_dict": published.state_dict()})
    two = ResNet3D(10, in_channels=2, width=4).eval()
    load_encoder(two, encoder)
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        for a, b in zip(two(x.expand(-1, 2, -1, -1, -1)), published(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", ["test_resnet", "test_convnext"])
def test_a_timm_network_sees_a_grey_slice_as_it_did_in_colour(model, tmp_path):
    torch.manual_seed(0)
    whole = timm.create_model(model, in_chans=3, num_classes=1000)
    torch.save(whole.state_dict(), tmp_path / "pytorch_model.bin")
    config = {
        "architecture": model,
        "num_classes": 1000,
        "pretrained_cfg": {"tag": "r160_in1k", "license": "apache-2.0"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = read_encoder(tmp_path)
    backbone = InflatedCNN(model).eval()
    report = load_encoder(backbone, encoder)
    assert report.matched == report.total
    assert report.unused["classifier"] >= 2
    assert report.licence == "apache-2.0"
    plane = timm.create_model(model, features_only=True, in_chans=3, num_classes=1000).eval()
    indices = {name.replace("stages_", "stages.").replace("stem_", "stem."): name for name in plane.state_dict()}
    plane.load_state_dict({own: whole.state_dict()[name] for name, own in indices.items()})
    grey = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        deep = backbone(grey[:, :, None].expand(-1, -1, 32, -1, -1))
        for a, b in zip(deep, plane(grey.expand(-1, 3, -1, -1)), strict=True):
            assert (a - b[:, :, None]).abs().max() < 1e-4 * b.abs().max()


def test_weights_of_another_timm_network_are_refused(tmp_path):
    torch.save(timm.create_model("test_convnext").state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet", "pretrained_cfg": {}}))
    with pytest.raises(UserError, match="not the weights of test_resnet"):
        read_encoder(tmp_path)


def test_a_wrong_shape_and_a_missing_tensor_are_errors(tmp_path):
    weights = GenesisUNet(width=8).state_dict()
    weights["down_tr128.ops.0.conv1.weight"] = torch.zeros(9, 8, 3, 3, 3)
    with pytest.raises(UserError, match=r"of another shape \(down_tr128.ops.0.conv1.weight"):
        read(tmp_path, {"state_dict": weights})
    del weights["down_tr128.ops.0.conv1.weight"]
    with pytest.raises(UserError, match=r"1 tensors missing \(down_tr128.ops.0.conv1.weight"):
        read(tmp_path, {"state_dict": weights})
    strange = {name: value for name, value in ResNet3D(18, width=4).state_dict().items() if "layer3.1" not in name}
    with pytest.raises(UserError, match=r"\(2, 2, 1, 2\) basic blocks per stage"):
        read(tmp_path, {"state_dict": strange})


def test_brain_seg_founder_is_a_swin_transformer_of_depths_and_heads_of_its_own(tmp_path):
    torch.manual_seed(0)
    theirs = MonaiSwinUNETR(
        2, 2, feature_size=24, window_size=3, depths=(1, 1, 2, 1), num_heads=(2, 2, 4, 8), use_v2=False
    ).eval()
    weights = {name: value for name, value in theirs.state_dict().items() if name.startswith("swinViT.")}
    heads = {"rotation_head.weight": torch.zeros(4, 192), "contrastive_head.bias": torch.zeros(512)}
    encoder = read(tmp_path, {"state_dict": prefixed("module.", weights | heads)})
    assert encoder.format == "BrainSegFounder checkpoint"
    assert any("then it is not BrainSegFounder, and neither data nor licence" in note for note in encoder.notes)
    arguments = encoder.architecture["init_args"]
    assert (arguments["depths"], arguments["heads"], arguments["in_channels"]) == ([1, 1, 2, 1], [2, 2, 4, 8], 2)
    backbone = from_config({**encoder.architecture, "init_args": arguments | {"merging": "all"}}).eval()
    load_encoder(backbone, encoder)
    x = torch.randn(1, 2, 32, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for ours, theirs_too in zip(backbone(x), theirs.swinViT(x), strict=True):
            torch.testing.assert_close(ours, theirs_too)
