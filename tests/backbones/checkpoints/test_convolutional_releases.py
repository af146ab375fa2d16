"""Merlin, STU-Net and BrainIAC: files in their layouts against networks built from their descriptions."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import resnet50
from torch import Tensor, nn
from torch.nn import functional as F

from medpretrain3d.backbones import MedNeXt, ReadOptions, ResNet3D, STUNet, load_encoder, read_encoder
from medpretrain3d.backbones.checkpoints.frame import turn_from
from medpretrain3d.configurable import from_config
from medpretrain3d.errors import UserError


def image(*shape: int) -> Tensor:
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(1))


def shaken(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """With statistics of batch norms as training leaves them."""
    generator = torch.Generator().manual_seed(2)
    shifts = {"_mean": -0.5, "_var": 5.0}
    return {
        name: 0.1 * (torch.rand(value.shape, generator=generator) + shifts[name[name.rindex("_") :]])
        if name.endswith(("_mean", "_var"))
        else value
        for name, value in weights.items()
    }


def merlin_weights(prefix: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    network = ResNet3D(50, in_channels=3, stem_kernel=(3, 7, 7), strides=[(1, 2, 2), *[(2, 2, 2)] * 4], width=4)
    return {f"{prefix}{name}": value for name, value in shaken(network.state_dict()).items()}


def merlin_features(weights: dict[str, Tensor], volume: Tensor) -> list[Tensor]:
    """Of an image (B, 1, R, A, S), as the published forward computes them; maps in (S, R, A)."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            weights[f"{name}.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, scale, shift)

    x = volume.permute(0, 1, 4, 2, 3).expand(-1, 3, -1, -1, -1)
    x = F.relu(norm(F.conv3d(x, weights["conv1.weight"], stride=(1, 2, 2), padding=(1, 3, 3)), "bn1"))
    features = [x]
    x = F.max_pool3d(x, 3, 2, 1)
    for stage, count in enumerate((3, 4, 6, 3), start=1):
        for number in range(count):
            block, stride = f"layer{stage}.{number}", 2 if stage > 1 and number == 0 else 1
            y = F.relu(norm(F.conv3d(x, weights[f"{block}.conv1.weight"]), f"{block}.bn1"))
            y = F.relu(norm(F.conv3d(y, weights[f"{block}.conv2.weight"], stride=stride, padding=1), f"{block}.bn2"))
            y = norm(F.conv3d(y, weights[f"{block}.conv3.weight"]), f"{block}.bn3")
            if f"{block}.downsample.0.weight" in weights:
                x = norm(F.conv3d(x, weights[f"{block}.downsample.0.weight"], stride=stride), f"{block}.downsample.1")
            x = F.relu(x + y)
        features.append(x)
    return features


@pytest.mark.parametrize("prefix", ["encode_image.i3_resnet.", "i3_resnet.", ""])
def test_merlin_sees_turned_volumes_as_its_own_code_does(prefix, tmp_path):
    weights = merlin_weights(prefix)
    weights |= {f"{prefix}classifier.weight": torch.zeros(3), "logit_scale": torch.ones(())}
    torch.save(weights, tmp_path / "merlin.pt")
    encoder = read_encoder(tmp_path / "merlin.pt")
    assert encoder.format == "Merlin checkpoint"
    assert sum(encoder.unused.values()) == 2
    backbone = from_config(encoder.architecture).double().eval()
    assert backbone.levels[0].stride == (1, 2, 2)
    report = load_encoder(backbone, encoder)
    assert report.matched == report.total
    assert "three input channels" in str(report)
    backbone.check_input = lambda x: None  # odd sizes, where strided convolutions have no side
    x, turn = image(33, 65, 17).double(), turn_from("RAS")
    with torch.no_grad():
        theirs = merlin_features({name: value.double() for name, value in merlin_weights("").items()}, x)
        for a, b in zip(backbone(turn.volume(x)), theirs, strict=True):
            expected = turn_from("SRA").volume(b)
            assert (a - expected).abs().max() < 1e-6 * expected.abs().max()


def test_merlin_has_its_published_size():
    from medpretrain3d.backbones.checkpoints.merlin import MERLIN

    with torch.device("meta"):
        backbone = from_config(MERLIN.architecture)
    blocks = sum(1 for name in backbone.state_dict() if name.endswith("conv3.weight"))
    assert (blocks, backbone.levels[-1].channels, backbone.levels[-1].stride) == (50, 2048, (16, 32, 32))


class TheirBlock(nn.Module):
    """STU-Net's residual block, from its description."""

    def __init__(self, before: int, after: int, stride: int, has_shortcut: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv3d(before, after, 3, stride, 1), nn.Conv3d(after, after, 3, 1, 1)
        self.norm1, self.norm2 = (nn.InstanceNorm3d(after, affine=True) for _ in range(2))
        self.conv3 = nn.Conv3d(before, after, 1, stride) if has_shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.leaky_relu(self.norm1(self.conv1(x)))))
        return F.leaky_relu(y + (self.conv3(x) if self.conv3 else x))


@pytest.mark.parametrize(("width", "blocks"), [(4, 1), (6, 2)])
def test_stu_net_has_the_features_of_its_description(width, blocks, tmp_path):
    torch.manual_seed(0)
    widths = [width * factor for factor in (1, 2, 4, 8, 16, 16)]
    stages = nn.ModuleList(
        nn.Sequential(
            *(TheirBlock(after if i else before, after, 2 if index and not i else 1, not i) for i in range(blocks))
        )
        for index, (before, after) in enumerate(zip((1, *widths), widths, strict=False))
    ).eval()
    weights = {f"conv_blocks_context.{name}": value for name, value in stages.state_dict().items()}
    decoder = {"conv_blocks_localization.0.0.conv1.weight": torch.zeros(2), "seg_outputs.0.bias": torch.zeros(2)}
    torch.save({"state_dict": weights | decoder, "epoch": 4000}, tmp_path / "base_ep4k.model")
    encoder = read_encoder(tmp_path / "base_ep4k.model")
    assert (encoder.format, sum(encoder.unused.values())) == ("STU-Net checkpoint", 2)
    backbone = from_config(encoder.architecture).eval()
    assert isinstance(backbone, STUNet)
    report = load_encoder(backbone, encoder)
    assert report.matched == report.total
    x = image(64, 64, 96)
    with torch.no_grad():
        y = x
        for ours, stage in zip(backbone(x), stages, strict=True):
            y = stage(y)
            assert (ours - y).abs().max() < 2e-5 * y.abs().max()


def test_stu_net_sizes_are_the_published_ones():
    sizes = {}
    for preset in ("S", "B", "L", "H"):
        with torch.device("meta"):
            sizes[preset] = STUNet(preset)
    assert [sizes[preset].levels[-1].channels for preset in "SBLH"] == [256, 512, 1024, 1536]
    assert [len(sizes[preset].conv_blocks_context[0]) for preset in "SBLH"] == [1, 1, 2, 3]


def test_an_stu_net_without_a_stage_is_refused(tmp_path):
    weights = {name: value for name, value in STUNet("XXS").state_dict().items() if "context.3." not in name}
    torch.save(weights, tmp_path / "part.model")
    with pytest.raises(UserError, match=r"stages \[0, 1, 2, 4, 5\]"):
        read_encoder(tmp_path / "part.model")


def test_brainiac_is_monais_resnet_below_backbone(tmp_path):
    torch.manual_seed(0)
    network = resnet50(spatial_dims=3, n_input_channels=1, num_classes=2, widen_factor=0.125, conv1_t_stride=2)
    network.load_state_dict(shaken(network.state_dict()))
    weights = {f"backbone.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / "brainiac.ckpt")
    encoder = read_encoder(tmp_path / "brainiac.ckpt", ReadOptions(orientation="SPL"))
    assert encoder.format == "BrainIAC checkpoint"
    assert "non-commercial" in encoder.card["restriction"]
    assumed = read_encoder(tmp_path / "brainiac.ckpt")
    assert [any("axes RAS assumed" in note for note in one.notes) for one in (encoder, assumed)] == [False, True]
    assert encoder.architecture["init_args"] == {"depth": 50, "in_channels": 1, "width": 8}
    backbone = from_config(encoder.architecture).double().eval()
    report = load_encoder(backbone, encoder)
    assert report.matched == report.total
    network, x = network.double().eval(), image(32, 32, 64).double()
    with torch.no_grad():
        y = network.act(network.bn1(network.conv1(x)))
        theirs, y = [y], network.maxpool(y)
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            y = stage(y)
            theirs.append(y)
        for a, b in zip(backbone(x), theirs, strict=True):
            assert (a - b).abs().max() < 1e-6 * b.abs().max()


def test_a_mednext_is_told_by_its_blocks_and_expansions(tmp_path):
    torch.manual_seed(0)
    theirs = MedNeXt("XXS", kernel_size=5).eval()
    weights = {f"model.encoder.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"state_dict": weights | {"model.decoder.weight": torch.zeros(2)}}, tmp_path / "mednext.ckpt")
    encoder = read_encoder(tmp_path / "mednext.ckpt")
    assert encoder.format == "MedNeXt checkpoint"
    assert (encoder.architecture["init_args"]["preset"], encoder.unused) == ("XXS", {"model": 1})
    backbone = from_config(encoder.architecture).eval()
    assert load_encoder(backbone, encoder).matched == len(weights)
    x = image(32, 32, 32)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(backbone(x), theirs(x), strict=True))
    del weights["model.encoder.enc_block_1.0.conv3.bias"]
    torch.save({"state_dict": weights}, tmp_path / "less.ckpt")
    with pytest.raises(UserError, match="1 tensors missing"):
        read_encoder(tmp_path / "less.ckpt")


def amaes_features(weights: dict[str, Tensor], volume: Tensor) -> list[Tensor]:
    """Of an image (B, 1, R, A, S), as the published encoder computes them; maps in (R, A, S)."""
    features, x = [], volume
    for stage in ("in_conv", "encoder_conv1", "encoder_conv2", "encoder_conv3", "encoder_conv4"):
        x = F.max_pool3d(x, 2) if features else x
        for layer in ("conv1", "conv2"):
            conv, norm = ([weights[f"{stage}.{layer}.{part}.{kind}"] for kind in ("weight", "bias")] for part in PARTS)
            x = F.leaky_relu(F.instance_norm(F.conv3d(x, *conv, padding=1), weight=norm[0], bias=norm[1]), 0.01)
        features.append(x)
    return features


PARTS = ("conv", "norm")


@pytest.mark.parametrize("prefix", ["encoder.", "model._orig_mod.encoder."])
def test_the_unet_of_amaes_pools_and_is_turned_exactly(tmp_path, prefix):
    generator = torch.Generator().manual_seed(0)
    theirs: dict[str, Tensor] = {}
    for before, stage in enumerate(("in_conv", *(f"encoder_conv{index}" for index in range(1, 5)))):
        width = 2 * 2**before
        for layer, channels in (("conv1", 1 if not before else width // 2), ("conv2", width)):
            theirs[f"{stage}.{layer}.conv.weight"] = torch.randn(width, channels, 3, 3, 3, generator=generator) / 5
            for part, kind in (("conv", "bias"), ("norm", "weight"), ("norm", "bias")):
                theirs[f"{stage}.{layer}.{part}.{kind}"] = torch.randn(width, generator=generator)
    decoder = {"rec_head.decoder_conv1.conv1.conv.weight": torch.zeros(2, 2, 3, 3, 3)}
    rest = {prefix.replace("encoder.", name): value for name, value in decoder.items()}
    torch.save({"state_dict": {f"{prefix}{name}": value for name, value in theirs.items()} | rest}, tmp_path / "u.pth")
    encoder = read_encoder(tmp_path / "u.pth")
    assert encoder.format == "AMAES checkpoint"
    assert encoder.architecture["init_args"]["channels"] == [2, 4, 8, 16, 32]
    assert encoder.card["preprocessing"]["spacing_mm"] == [1.0, 1.0, 1.0]
    assert sum(encoder.unused.values()) == 1
    backbone = from_config(encoder.architecture).double().eval()
    report = load_encoder(backbone, encoder)
    assert report.matched == report.total == len(theirs)
    volume, turn = image(32, 64, 32).double(), turn_from("RAS")
    wanted = amaes_features({name: value.double() for name, value in theirs.items()}, volume)
    with torch.no_grad():
        for ours, feature in zip(backbone(turn.volume(volume)), wanted, strict=True):
            assert (ours - turn.volume(feature)).abs().max() < 1e-6 * feature.abs().max()
    less = {f"{prefix}{name}": value for name, value in theirs.items() if "encoder_conv4.conv2.norm.bias" not in name}
    torch.save(less, tmp_path / "less.pth")
    with pytest.raises(UserError, match="1 tensors missing"):
        read_encoder(tmp_path / "less.pth")
    residual = {f"{prefix}encoder_conv1.downsample_skip.0.weight": torch.zeros(4, 2, 1, 1, 1)}
    torch.save({f"{prefix}{name}": value for name, value in theirs.items()} | residual, tmp_path / "residual.pth")
    with pytest.raises(UserError, match="residual"):
        read_encoder(tmp_path / "residual.pth")
