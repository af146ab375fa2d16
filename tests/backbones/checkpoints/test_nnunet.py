from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from medpretrain3d.backbones import ReadOptions, primus, read_encoder
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


def test_an_unknown_configuration_is_named(nnssl_checkpoints, write):
    with pytest.raises(UserError, match="trained as '2d', its plans know 3d_fullres"):
        read_encoder(write("resenc_mae", residual(nnssl_checkpoints), "2d"))
