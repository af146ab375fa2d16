from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import save_file

from medpretrain3d.backbones import EncoderFile, Primus, ReadOptions, load_encoder, read_encoder
from medpretrain3d.backbones.checkpoints import EXPORTS
from medpretrain3d.configurable import from_config
from medpretrain3d.errors import UserError
from medpretrain3d.objectives import MAE
from tests.backbones.checkpoints.reference import assert_reference_features, reference_image
from tests.backbones.checkpoints.waves import released_fixture, wave, waves

EXACT, RESIZED = 1e-5, 1e-4
WHD = ReadOptions(token_order="whd")


def features(encoder: EncoderFile, shape=(32, 32, 32), **changes):
    """Of the network in the file, or of one with other arguments that is loaded from it."""
    architecture = copy.deepcopy(encoder.architecture)
    architecture["init_args"] |= changes
    backbone = from_config(architecture).eval()
    load_encoder(backbone, encoder)
    with torch.no_grad():
        return backbone(reference_image(shape, backbone.in_channels))


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("resenc_mae", ReadOptions(), "resenc/encoder"),
        ("resenc_s3d_stale", ReadOptions(), "resenc/encoder"),
        ("resenc_voco", ReadOptions(), "resenc/encoder"),
        ("resenc_multistem", ReadOptions(), "resenc/encoder"),
        ("resenc_multistem", ReadOptions(stem="004"), "resenc/encoder+stem004"),
        ("plainconv", ReadOptions(), "plainconv/encoder"),
        ("primus_evamae", ReadOptions(), "primus/tokens_hwd(nnssl order)"),
        ("primus_evavoco", ReadOptions(), "primus/tokens_hwd(nnssl order)"),
        ("primus_evamae", WHD, "primus/tokens_whd"),
        ("primus_evavoco", WHD, "primus/tokens_whd"),
        ("primusx_nolayerscale", ReadOptions(), "primusx/tokens_hwd@32x32x32"),
        ("primusx_nolayerscale", WHD, "primusx/tokens_whd@32x32x32"),
    ],
)
def test_every_layout_gives_its_reference_features(nnssl_checkpoints, name, options, key):
    encoder = read_encoder(nnssl_checkpoints / name, options)
    assert_reference_features(features(encoder), key, EXACT)


@pytest.mark.parametrize("name", ["resenc_mae", "resenc_s3d_stale"])
def test_three_channels_alike_give_the_features_of_one(nnssl_checkpoints, name):
    encoder = read_encoder(nnssl_checkpoints / name)
    assert_reference_features(features(encoder, in_channels=3), f"{name}/cin3", RESIZED)


@pytest.mark.parametrize("changes", [{}, {"position_grid": [6, 4, 4]}], ids=["resized in passing", "resized at load"])
def test_positions_serve_another_patch(nnssl_checkpoints, changes):
    encoder = read_encoder(nnssl_checkpoints / "primus_evamae", WHD)
    found = features(encoder, (48, 32, 32), **changes)
    assert_reference_features(found, "primus/tokens@48x32x32", RESIZED)


def test_the_order_of_tokens_is_kept_on_a_longer_image(nnssl_checkpoints):
    # A network whose tokens are flattened (h w d) sees the image with D and H exchanged as one flattened (w h d) does.
    by_default = read_encoder(nnssl_checkpoints / "primus_evamae")
    as_they_are = read_encoder(nnssl_checkpoints / "primus_evamae", WHD)
    image = reference_image((48, 32, 40))
    embedding = {name: value for name, value in by_default.weights.items() if name.startswith("down_projection")}
    # Exchanging D and H in the image needs the same in the patches' own weights.
    embedding["down_projection.proj.weight"] = embedding["down_projection.proj.weight"].transpose(2, 3)
    ours, theirs = from_config(by_default.architecture).eval(), from_config(as_they_are.architecture).eval()
    ours.load_state_dict(by_default.weights)
    theirs.load_state_dict(as_they_are.weights | embedding)
    with torch.no_grad():
        torch.testing.assert_close(ours(image)[0], theirs(image.transpose(2, 3))[0].transpose(2, 3))


def test_what_a_user_must_know_is_told(nnssl_checkpoints):
    stale = read_encoder(nnssl_checkpoints / "resenc_s3d_stale")
    assert len(stale.notes) == 1
    assert "66 tensors have a stale copy" in stale.notes[0]
    report = load_encoder(from_config(stale.architecture), stale)
    assert "66 of 66 backbone tensors matched; fresh: none; unused: decoder (24)" in str(report)
    assert "stale copy" in str(report)
    assert "licence: not stated in the file" in str(report)
    assert "cite: Pretraining Method: oracle: random weights; cite nothing" in str(report)
    several = read_encoder(nnssl_checkpoints / "resenc_multistem")
    assert any("2 stems" in note and "351_0" in note and "others: 004" in note for note in several.notes)
    assert several.unused == {"decoder": 24, "encoder.stem.004": 4}
    assert read_encoder(nnssl_checkpoints / "resenc_voco").unused == {"projector": 4}
    plain = read_encoder(nnssl_checkpoints / "plainconv")
    assert sum("assumed" in note for note in plain.notes) == 2  # its plan states neither strides nor activation
    transformer = read_encoder(nnssl_checkpoints / "primus_evamae")
    assert any("flattened (h w d)" in note for note in transformer.notes)
    assert transformer.card["preprocessing"] == {
        "spacing_mm": [1, 1, 1],
        "patch": [32, 32, 32],
        "normalisation": ["ZScoreNormalization"],
        "window": {"class_path": "medpretrain3d.store.intensity.ZScore", "init_args": {"voxels": "all"}},
        "recommended_patch": [160, 160, 160],
    }


@pytest.mark.parametrize("trainer", ["SimMIMEvaTrainer_BS8", "BaseEvaSimMIMTrainer", "sim_mim_trainer"])
@pytest.mark.parametrize("place", ["file", "sidecar"])
def test_simmim_of_nnssl_flattens_tokens_the_other_way(nnssl_checkpoints, tmp_path, trainer, place):
    content = torch.load(nnssl_checkpoints / "primus_evamae/checkpoint_final.pth", weights_only=True)
    content["trainer_name"] = trainer
    if place == "sidecar":
        plan = content.pop("nnssl_adaptation_plan") | {"trainer_name": content.pop("trainer_name")}
        (tmp_path / "adaptation_plan.json").write_text(json.dumps(plan))
    torch.save(content, tmp_path / "checkpoint_final.pth")
    encoder = read_encoder(tmp_path)
    assert_reference_features(features(encoder), "primus/tokens_whd", EXACT)
    assert any(f"trained by {trainer}, and SimMIM of nnssl flattens tokens (w h d)" in note for note in encoder.notes)
    asked = read_encoder(tmp_path, ReadOptions(token_order="hwd"))
    assert_reference_features(features(asked), "primus/tokens_hwd(nnssl order)", EXACT)
    assert not any("SimMIM" in note for note in asked.notes)


def test_a_stem_that_is_not_there_is_refused(nnssl_checkpoints):
    with pytest.raises(UserError, match="got stem '005', wanted one of 004, 351_0"):
        read_encoder(nnssl_checkpoints / "resenc_multistem", ReadOptions(stem="005"))
    with pytest.raises(UserError, match="only one"):
        read_encoder(nnssl_checkpoints / "resenc_mae", ReadOptions(stem="004"))


@pytest.fixture
def changed(nnssl_checkpoints, tmp_path):
    """Write a fixture again with some of it changed."""

    def write(name, change):
        content = torch.load(nnssl_checkpoints / name / "checkpoint_final.pth", weights_only=True)
        change(content["network_weights"], content["nnssl_adaptation_plan"])
        path = tmp_path / f"{name}.pth"
        torch.save(content, path)
        return path

    return write


def test_the_tensors_are_believed_rather_than_the_plan(changed, nnssl_checkpoints):
    def bare_plan(weights, plan):
        plan["architecture_plans"] = {"arch_class_name": "ResEncL", "arch_kwargs": None}

    # This is what nnssl's own files say: a class name, and nothing of sizes.
    assert_reference_features(features(read_encoder(changed("resenc_mae", bare_plan))), "resenc/encoder", EXACT)

    def wrong_depth(weights, plan):
        plan["architecture_plans"]["arch_kwargs"]["encoder_eva_depth"] = 12

    encoder = read_encoder(changed("primus_evamae", wrong_depth))
    assert any("speaks of 12 blocks, the file holds 2" in note for note in encoder.notes)


def test_a_plan_may_name_the_encoder_and_the_stems_as_a_whole(changed, nnssl_checkpoints):
    def whole(weights, plan):
        plan |= {"key_to_encoder": "encoder", "key_to_stem": "encoder.stem"}

    encoder = read_encoder(changed("resenc_multistem", whole), ReadOptions(stem="351_0"))
    assert_reference_features(features(encoder), "resenc/encoder", EXACT)
    assert_reference_features(features(read_encoder(changed("resenc_mae", whole))), "resenc/encoder", EXACT)


def test_names_below_wrappers_and_half_precision_are_read(changed, nnssl_checkpoints):
    def wrap(weights, plan):
        for name in list(weights):
            weights[f"module._orig_mod.{name}"] = weights.pop(name).half()

    found = features(read_encoder(changed("resenc_voco", wrap)))
    assert_reference_features(found, "resenc/encoder", 1e-2)  # half precision keeps 11 bits


def test_incomplete_and_unknown_networks_are_refused(changed):
    def without_a_tensor(weights, plan):
        for name in [
            name
            for name in weights
            if "stages.2.blocks.1.conv2.norm.bias" in name or "stages.2.blocks.1.conv2.all_modules.1.bias" in name
        ]:
            del weights[name]

    with pytest.raises(UserError, match=r"1 tensors missing \(stages\.2\.blocks\.1\.conv2\.norm\.bias\)"):
        read_encoder(changed("resenc_mae", without_a_tensor))

    def without_a_stage(weights, plan):
        for name in [name for name in weights if ".stages.1." in name]:
            del weights[name]

    with pytest.raises(UserError, match="without a gap"):
        read_encoder(changed("resenc_mae", without_a_stage))

    def with_batch_norm(weights, plan):
        plan["architecture_plans"]["arch_kwargs"]["norm_op"] = "torch.nn.modules.batchnorm.BatchNorm3d"

    with pytest.raises(UserError, match="wanted instance norm"):
        read_encoder(changed("resenc_mae", with_batch_norm))

    def of_another_plan(weights, plan):
        plan["key_to_encoder"] = "eva"

    with pytest.raises(UserError, match="its plan speaks of 'eva'"):
        read_encoder(changed("resenc_mae", of_another_plan))

    def without_heads(weights, plan):
        plan["architecture_plans"]["arch_kwargs"] = None

    with pytest.raises(UserError, match="states no number of heads"):
        read_encoder(changed("primus_evamae", without_heads))

    def with_strides_of_two_axes(weights, plan):
        plan["architecture_plans"]["arch_kwargs"]["strides"] = [[1, 1]] * 4

    with pytest.raises(UserError, match="looks like a checkpoint of nnssl, but its plan"):
        read_encoder(changed("resenc_mae", with_strides_of_two_axes))

    def stretched(weights, plan):
        plan["architecture_plans"]["arch_kwargs"]["input_shape"] = [64, 32, 16]

    with pytest.raises(UserError, match="rotary positions were scrambled in training"):
        read_encoder(changed("primus_evamae", stretched))


def test_convolutions_without_bias_and_published_sizes(changed):
    def unbiased(weights, plan):
        for name in [name for name in weights if name.endswith(("conv.bias", "all_modules.0.bias"))]:
            del weights[name]

    encoder = read_encoder(changed("plainconv", unbiased))
    assert any("zeros stand in" in note for note in encoder.notes)
    assert encoder.architecture["init_args"]["preset"] == "XXS"


def test_safetensors_with_the_plan_beside_it(nnssl_checkpoints, tmp_path):
    folder = nnssl_checkpoints / "resenc_mae"
    content = torch.load(folder / "checkpoint_final.pth", weights_only=True)
    save_file(
        {name: value.clone() for name, value in content["network_weights"].items()}, tmp_path / "model.safetensors"
    )
    (tmp_path / "adaptation_plan.json").write_text((folder / "adaptation_plan.json").read_text(encoding="utf-8"))
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# a model\n")
    encoder = read_encoder(tmp_path)
    assert_reference_features(features(encoder), "resenc/encoder", EXACT)
    assert encoder.card["licence"] == "cc-by-4.0"
    assert (
        encoder.card["pretraining"]["paradigm"]
        == json.loads((tmp_path / "adaptation_plan.json").read_text(encoding="utf-8"))["trainer_name"]
    )


def primus_v2(tmp_path):
    fixture = released_fixture("primus_v2")
    weights = waves(fixture["shapes"])
    for name in [name for name in weights if name.startswith("down_projection.") and ".conv." in name]:
        weights[name.replace(".conv.", ".all_modules.0.")] = weights[name]
    plan = {
        "key_to_encoder": "eva",
        "key_to_stem": "down_projection",
        "key_to_lpe": "eva.pos_embed",
        "architecture_plans": {"arch_class_name": "PrimusV2", "arch_kwargs": {"eva_numheads": 2}},
        "pretrain_plan": {"configurations": {"onemmiso": {"patch_size": [16, 24, 16], "spacing": [1, 1, 1]}}},
    }
    content = {"network_weights": weights, "nnssl_adaptation_plan": plan, "trainer_name": "SimMIMEvaTrainer"}
    return fixture, content, tmp_path / "checkpoint_final.pth"


def test_primus_v2_has_the_features_of_another_implementation(tmp_path):
    fixture, content, path = primus_v2(tmp_path)
    torch.save(content, path)
    encoder = read_encoder(path)
    assert encoder.architecture["init_args"]["embedding"] == [4, 8, 16]
    backbone = from_config(encoder.architecture).eval()
    report = load_encoder(backbone, encoder)
    assert report.matched == report.total
    with torch.no_grad():
        (features,) = backbone(5 * wave(fixture["image"], 0.3))
    expected = torch.tensor(fixture["features"]).reshape(features.shape)
    assert (features - expected).abs().max() < 1e-5 * expected.abs().max()
    with pytest.raises(UserError, match="see beyond their patches"):
        MAE(backbone, mask_block=(8, 8, 8))
    with pytest.raises(UserError, match="read from nnssl, not written"):
        EXPORTS.parts()["nnssl"](tmp_path, encoder)


def test_another_embedding_of_primus_is_refused(tmp_path):
    _, content, path = primus_v2(tmp_path)
    del content["network_weights"]["down_projection.final_proj.weight"]
    torch.save(content, path)
    with pytest.raises(UserError, match=r"neither V1's nor V2's"):
        read_encoder(path)
    with pytest.raises(UserError, match="make patches of 4 voxels"):
        Primus("XXS", embedding=(4, 8))
