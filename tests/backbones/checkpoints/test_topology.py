"""An encoder of cubic voxels in a network for slices that lie apart."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medpretrain3d.backbones import Backbone, EncoderFile, Primus, ResEnc, load_encoder
from medpretrain3d.backbones.checkpoints.topology import fit_kernel, fit_patch, fits_kernel
from medpretrain3d.command_line.composition import composed, recipe_layers
from medpretrain3d.command_line.recipes import find_recipe
from medpretrain3d.configurable import Config, from_config, to_config
from medpretrain3d.errors import UserError

STRIDES = [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2)]
FLAT_FIRST = [(1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3)]


def encoder_of(backbone: Backbone) -> EncoderFile:
    return EncoderFile(to_config(backbone), backbone.state_dict(), {}, "0" * 64)


def test_taps_that_fall_away_are_added_to_the_nearest() -> None:
    weight = torch.arange(27.0).reshape(1, 1, 3, 3, 3)
    flat = fit_kernel(weight, (1, 3, 3))
    assert flat.shape == (1, 1, 1, 3, 3)
    assert flat[0, 0, 0, 0, 0] == 27.0  # 0 + 9 + 18
    five = torch.tensor([1.0, 2, 4, 8, 16]).reshape(1, 1, 5, 1, 1)
    assert fit_kernel(five, (3, 1, 1)).flatten().tolist() == [3, 4, 24]
    assert torch.equal(fit_kernel(weight, (3, 3, 3)), weight)
    assert [fits_kernel(*edges) for edges in ((4, 3), (4, 1), (4, 2))] == [False, True, True]


def test_a_longer_kernel_is_the_same_map() -> None:
    image = torch.randn(1, 1, 6, 5, 5, dtype=torch.float64)
    weight = torch.randn(2, 1, 1, 3, 3, dtype=torch.float64)
    longer = F.conv3d(image, fit_kernel(weight, (3, 3, 5)), padding=(1, 1, 2))
    torch.testing.assert_close(longer, F.conv3d(image, weight, padding=(0, 1, 1)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("edge", range(1, 17))
def test_a_constant_patch_keeps_its_token(edge: int) -> None:
    weight = torch.rand(3, 1, 8, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(fit_patch(weight, (edge, 2, 2)).sum((1, 2, 3, 4)), weight.sum((1, 2, 3, 4)))


def test_a_thin_patch_has_the_token_of_its_interpolation() -> None:
    weight, voxels = (torch.randn(2, 1, 8, 4, 4, dtype=torch.float64) for _ in range(2))
    voxels = voxels[:1, :, :2]
    thick = F.interpolate(voxels, size=(8, 4, 4), mode="trilinear")
    torch.testing.assert_close(F.conv3d(voxels, fit_patch(weight, (2, 4, 4))), F.conv3d(thick, weight))


def stack_of_one_slice(depth: int) -> Tensor:
    return torch.randn(1, 1, 1, 16, 16, generator=torch.Generator().manual_seed(0)).expand(1, 1, depth, 16, 16)


def test_a_flat_network_sees_what_does_not_change_along_d_as_the_full_one_does() -> None:
    torch.manual_seed(0)
    full, flat = ResEnc("XXS").eval(), ResEnc("XXS", strides=STRIDES, kernel_sizes=FLAT_FIRST).eval()
    report = load_encoder(flat, encoder_of(full), topology="adapt")
    how = "kernel 3x3x3 to 1x3x3, taps outside are added to the outermost kept"
    names = [name for name, tensor in flat.state_dict().items() if tensor.shape[2:] == (1, 3, 3)]
    assert report.adapted == tuple(f"{name}: {how}" for name in names)
    assert f"  adapted: stages.1.blocks.0.conv2.conv.weight: {how}\n" in str(report)
    assert report.matched == report.total
    assert report.notes == (
        "levels have strides [(1, 1, 1), (1, 2, 2), (2, 4, 4), (4, 8, 8)], in the file [(1, 1, 1), (2, 2, 2), "
        "(4, 4, 4), (8, 8, 8)]: features differ until fine-tuned",
    )
    with torch.no_grad():
        deep, thin = (one.stem.get_submodule("convs.0.conv")(stack_of_one_slice(9)) for one in (full, flat))
    torch.testing.assert_close(thin[:, :, 4], deep[:, :, 4], rtol=0, atol=1e-5)  # the rim of the full one sees zeros


def test_what_agrees_is_taken_bit_by_bit() -> None:
    theirs, ours = ResEnc("XXS"), ResEnc("XXS")
    report = load_encoder(ours, encoder_of(theirs), topology="adapt")
    assert report.adapted == report.notes == ()
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())


def test_patches_and_positions_of_a_transformer_follow_thick_slices() -> None:
    theirs = Primus("XXS", patch_size=(8, 8, 8), position_grid=(2, 2, 2))
    ours = Primus("XXS", patch_size=(2, 8, 8), position_grid=(4, 2, 2))
    report = load_encoder(ours, encoder_of(theirs), topology="adapt")
    (adapted,) = report.adapted
    assert adapted.startswith("down_projection.proj.weight: patch 8x8x8 to 2x8x8 interpolated to the file's patch")
    assert "positions resized trilinearly in 1 tensor" in report.notes
    with torch.no_grad():
        tokens = [one.embed(torch.full((1, 1, 8, 8, 8), 0.7)) for one in (theirs, ours)]
    torch.testing.assert_close(tokens[1], tokens[0].expand(1, 4, -1))


@pytest.mark.parametrize(
    ("theirs", "ours", "shapes"),
    [
        (ResEnc("XXS"), ResEnc("XXS", kernel_sizes=FLAT_FIRST), r"file \(8, 8, 3, 3, 3\), model \(8, 8, 1, 3, 3\)"),
        (
            Primus("XXS", position_grid=(2, 2, 2)),
            Primus("XXS", patch_size=(4, 8, 8), position_grid=(2, 2, 2)),
            r"file \(48, 1, 8, 8, 8\), model \(48, 1, 4, 8, 8\)",
        ),
    ],
)
def test_it_has_to_be_asked_for(theirs: Backbone, ours: Backbone, shapes: str) -> None:
    with pytest.raises(UserError, match=f"{shapes}.*; set model.init_topology to adapt"):
        load_encoder(ours, encoder_of(theirs))


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_the_recipes_adapt_what_those_of_pretraining_make(name: str) -> None:
    small: Config = {"channels": [8] * 6, "blocks": [1] * 6} if name == "cnn" else {"width": 48, "depth": 2, "heads": 2}
    found = {}
    for stage, recipe in (
        ("pretrain", f"nnfoundation_{name}"),
        ("finetune", f"msd_hepatic_vessel_nnfoundation_{name}"),
    ):
        model = composed(recipe_layers(find_recipe(recipe, stage), stage))["model"]
        network = model["objective" if stage == "pretrain" else "detector"]["init_args"]["backbone"]
        inner = network["init_args"].get("backbone", network)
        inner["init_args"].update({"preset": None, **small})
        found[stage] = from_config(_with_modules(network))
    assert model["init_topology"] == "adapt"
    with pytest.raises(UserError, match=r"init_topology"):
        load_encoder(found["finetune"], encoder_of(found["pretrain"]))
    report = load_encoder(found["finetune"], encoder_of(found["pretrain"]), topology="adapt")
    assert len(report.adapted) == {"cnn": 5, "vit": 1}[name]
    strides = [level.stride for level in found["finetune"].levels][{"cnn": 2, "vit": 0}[name] :]
    assert strides == [(1, 4, 4), (2, 8, 8), (4, 16, 16), (8, 32, 32)]


def _with_modules(config: Config) -> Config:
    """The class paths of a recipe with their module."""
    inner = {key: _with_modules(value) if key == "backbone" else value for key, value in config["init_args"].items()}
    return {"class_path": f"medpretrain3d.backbones.{config['class_path']}", "init_args": inner}


def test_what_no_topology_explains_is_not_blamed_on_it() -> None:
    wider = ResEnc(None, channels=(8, 16, 32, 64), blocks=(1, 1, 1, 1))
    with pytest.raises(UserError, match="of another shape") as refused:
        load_encoder(ResEnc("XXS", kernel_sizes=FLAT_FIRST), encoder_of(wider), topology="adapt")
    assert "init_topology" not in str(refused.value)
