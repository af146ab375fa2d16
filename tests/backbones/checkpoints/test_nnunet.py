from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from medpretrain3d.backbones import Primus, ReadOptions, ResEnc, primus, read_encoder
from medpretrain3d.configurable import from_config
from medpretrain3d.errors import UserError
from tests.backbones.checkpoints.reference import assert_reference_features, reference_image

INTENSITIES = {"0": {"mean": 90.0, "std": 120.0, "percentile_00_5": -750.0, "percentile_99_5": 600.0}}


def plans(architecture):
    return {
        "dataset_name": "Dataset001_Test",
        "foreground_intensity_properties_per_channel": INTENSITIES,
        "configurations": {
            "3d_fullres": {
                "spacing": [2.5, 0.8, 0.8],
                "patch_size": [32, 32, 32],
                "normalization_schemes": ["CTNormalization"],
                **architecture,
            },
            "3d_cascade_fullres": {"inherits_from": "3d_fullres"},
        },
    }


@pytest.fixture
def write(nnssl_checkpoints, tmp_path):
    """A checkpoint as nnU-Net writes it, with the weights of one of the fixtures."""

    def write(name, architecture, configuration="3d_fullres"):
        source = torch.load(nnssl_checkpoints / name / "checkpoint_final.pth", weights_only=True)
        content = {
            "network_weights": source["network_weights"],
            "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
            "logging": {"mean_fg_dice": [np.float64(0.5)], "lrs": [np.float32(0.01)]},
            "_best_ema": np.float64(0.6),
            "current_epoch": 1000,
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": (0, 1, 2),
            "init_args": {
                "plans": plans(architecture),
                "configuration": configuration,
                "fold": 0,
                "dataset_json": {"labels": {"background": 0, "liver": 1}, "channel_names": {"0": "CT"}},
                "device": torch.device("cpu"),
            },
        }
        folder = tmp_path / "fold_0"
        folder.mkdir()
        torch.save(content, folder / "checkpoint_final.pth")
        return tmp_path

    return write


def residual(nnssl_checkpoints):
    plan = json.loads((nnssl_checkpoints / "resenc_mae" / "adaptation_plan.json").read_text(encoding="utf-8"))
    name = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    return {"architecture": {"network_class_name": name, "arch_kwargs": plan["architecture_plans"]["arch_kwargs"]}}


@pytest.mark.parametrize("configuration", ["3d_fullres", "3d_cascade_fullres"])
def test_the_encoder_of_a_residual_u_net(nnssl_checkpoints, write, configuration):
    encoder = read_encoder(write("resenc_mae", residual(nnssl_checkpoints), configuration))
    backbone = from_config(encoder.architecture).eval()
    backbone.load_state_dict(encoder.weights)
    with torch.no_grad():
        assert_reference_features(backbone(reference_image((32, 32, 32))), "resenc/encoder", 1e-5)
    assert encoder.format == "nnU-Net checkpoint"
    assert encoder.unused == {"decoder": 24}
    assert encoder.card["preprocessing"]["spacing_mm"] == [2.5, 0.8, 0.8]
    seen = from_config(encoder.card["preprocessing"]["window"])(np.array([[-1000.0, 90.0, 210.0, 600.0, 3000.0]]))
    np.testing.assert_allclose(seen, [[-7.0, 0.0, 1.0, 4.25, 4.25]])  # (HU - 90) / 120, cut at -750 and 600 HU
    assert encoder.card["pretraining"]["labels"] == {"background": 0, "liver": 1}
    assert "nnU-Net" in encoder.card["citations"][0]


def test_the_encoder_of_a_plain_u_net_with_plans_of_older_versions(nnssl_checkpoints, write):
    flat = {"UNet_class_name": "PlainConvUNet", "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2], [2, 2, 2]]}
    encoder = read_encoder(write("plainconv", flat))
    backbone = from_config(encoder.architecture).eval()
    backbone.load_state_dict(encoder.weights)
    with torch.no_grad():
        assert_reference_features(backbone(reference_image((32, 32, 32))), "plainconv/encoder", 1e-5)


@pytest.mark.parametrize(("order", "key"), [(None, "primus/tokens_whd"), ("hwd", "primus/tokens_hwd(nnssl order)")])
def test_a_primus_of_nnu_net_is_read_in_its_later_order(nnssl_checkpoints, write, monkeypatch, order, key):
    # No plan of nnU-Net states the heads: those of the published sizes are known by their width and depth.
    monkeypatch.setitem(primus.PRESETS, "fixture", primus.Size(96, 2, 4))
    encoder = read_encoder(write("primus_evamae", {}), ReadOptions(token_order=order))
    backbone = from_config(encoder.architecture).eval()
    backbone.load_state_dict(encoder.weights)
    with torch.no_grad():
        assert_reference_features(backbone(reference_image((32, 32, 32))), key, 1e-5)
    assert encoder.unused == {"decoder": 26, "mask_token": 1, "up_projection": 10}


STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]
KERNELS = [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]]
ORDERS = [[2, 0, 1], [1, 2, 0], [0, 2, 1], [2, 1, 0]]


def transposed(path, order, weights, architecture):
    """A checkpoint of a network that saw the axes (D, H, W) in another order."""
    made = plans(architecture) | {"transpose_forward": order}
    made["configurations"]["3d_fullres"] |= {"spacing": [4.4, 0.6, 0.7], "patch_size": [16, 32, 48]}
    init_args = {"plans": made, "configuration": "3d_fullres", "fold": 0, "dataset_json": {}}
    torch.save({"network_weights": weights, "init_args": init_args}, path)
    encoder = read_encoder(path)
    backbone = from_config(encoder.architecture).eval()
    backbone.load_state_dict(encoder.weights)
    # Along axis `order[i]` of a volume of ours lies what the network saw along its axis `i`.
    assert [encoder.card["preprocessing"]["spacing_mm"][axis] for axis in order] == [4.4, 0.6, 0.7]
    assert [encoder.card["preprocessing"]["patch"][axis] for axis in order] == [16, 32, 48]
    assert any(f"axes transposed to {order}" in note for note in encoder.notes)
    return backbone


def assert_sees_transposed(ours, theirs, order, shape):
    image = torch.randn(1, 1, *shape)  # along the network's axes
    back = [0, 1, *(2 + order.index(axis) for axis in range(3))]
    with torch.no_grad():
        for a, b in zip(ours(image.permute(back)), theirs(image), strict=True):
            torch.testing.assert_close(a, b.permute(back), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_axes_that_were_transposed_in_training_are_turned_back(tmp_path, order):
    torch.manual_seed(0)
    network = ResEnc("XXS", kernel_sizes=KERNELS, strides=STRIDES).eval()
    kwargs = {"n_stages": 4, "strides": STRIDES, "kernel_sizes": KERNELS, "nonlin": "torch.nn.LeakyReLU"}
    weights = {f"encoder.{name}": value for name, value in network.state_dict().items()}
    ours = transposed(tmp_path / "a.pth", order, weights, {"architecture": {"arch_kwargs": kwargs}})
    assert_sees_transposed(ours, network, order, (8, 16, 24))
    assert ours.levels[1].stride == tuple([1, 2, 2][order.index(axis)] for axis in range(3))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("options", [{}, {"embedding": [4, 8, 16]}])
def test_axes_of_a_primus_that_were_transposed_are_turned_back(tmp_path, monkeypatch, order, options):
    torch.manual_seed(0)
    monkeypatch.setitem(primus.PRESETS, "fixture", primus.Size(96, 2, 4))
    network = Primus("fixture", position_grid=(2, 4, 6), num_register_tokens=2, **options).eval()
    torch.nn.init.normal_(network.eva.pos_embed)
    ours = transposed(tmp_path / "a.pth", order, network.state_dict(), {})
    assert_sees_transposed(ours, network, order, (16, 32, 48))


def test_an_order_of_axes_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"state transpose_forward \[0, 0, 1\], wanted an order of the axes"):
        transposed(tmp_path / "a.pth", [0, 0, 1], {"encoder.stem.convs.0.conv.weight": torch.zeros(1)}, {})


def test_an_unknown_configuration_is_named(nnssl_checkpoints, write):
    with pytest.raises(UserError, match="trained as '2d', its plans know 3d_fullres"):
        read_encoder(write("resenc_mae", residual(nnssl_checkpoints), "2d"))
