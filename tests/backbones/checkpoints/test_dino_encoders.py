"""FlexiCT-3D, SPECTRE, VoxelFM, 3DINO and TAP-CT: files in their layouts against features computed step by step."""

from __future__ import annotations

import pytest
import torch

from medpretrain3d.backbones import DinoViT, ReadOptions, load_encoder, read_encoder
from medpretrain3d.backbones.checkpoints import RELEASES
from medpretrain3d.backbones.checkpoints.frame import turn_from
from medpretrain3d.configurable import from_config
from medpretrain3d.errors import UserError
from tests.backbones.checkpoints import dino_reference
from tests.backbones.checkpoints.dino_reference import DEPTH, PROJECTS, Project, features_of, file_of, weights_of
from tests.backbones.checkpoints.waves import released_fixture, wave, waves

RELEASED = {release.name: release for release in RELEASES}


def image(project: Project, cells: tuple[int, int, int]) -> torch.Tensor:
    shape = [count * edge for count, edge in zip(cells, project.patch, strict=True)]
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(1)).double()


def read(name, tmp_path, options=ReadOptions()):  # noqa: B008  frozen
    torch.save(file_of(PROJECTS[name]), tmp_path / "weights.pth")
    return read_encoder(tmp_path / "weights.pth", options)


@pytest.mark.parametrize("name", PROJECTS)
@pytest.mark.parametrize("cells", [(3, 3, 3), (4, 2, 3)])
def test_the_network_sees_a_turned_volume_as_the_original_saw_its_own(name, cells, tmp_path):
    project = PROJECTS[name]
    encoder = read(name, tmp_path)
    assert encoder.format == f"{name} checkpoint"
    ours = from_config(encoder.architecture).double().eval()
    report = load_encoder(ours, encoder)
    assert report.matched == report.total
    assert sum(encoder.unused.values()) == len(project.others)
    turn, x = turn_from(RELEASED[name].orientation or "SPL"), image(project, cells)
    with torch.no_grad():
        expected = [turn.volume(one) for one in features_of(project, x)]
        tokens = ours.embed(turn.volume(x))
        grid = ours.grid(tuple(turn.volume(x).shape[2:]))
        blocks = ours.encode_at(tokens, grid, range(DEPTH))
        (last,) = ours(turn.volume(x))
    assert torch.equal(last.flatten(2).transpose(1, 2), blocks[-1])
    for block, theirs in zip(blocks, expected, strict=True):
        one = block.transpose(1, 2).unflatten(2, grid)
        # In bf16 angles both round alike, and what fp32 does between can tip a rounding over.
        tolerance = 2e-3 if project.dtype == torch.bfloat16 else 1e-6
        assert (one - theirs).abs().max() < tolerance * theirs.abs().max()


def test_bf16_angles_are_another_network_than_fp32_ones(tmp_path):
    encoder = read("FlexiCT-3D", tmp_path)
    assert encoder.architecture["init_args"]["rope_precision"] == "bfloat16"
    x = image(PROJECTS["FlexiCT-3D"], (4, 3, 5))
    arguments = encoder.architecture["init_args"]
    both = [DinoViT(**arguments), DinoViT(**arguments | {"rope_precision": "float32"})]
    for one in both:
        load_encoder(one, encoder)
    (theirs,) = features_of(PROJECTS["FlexiCT-3D"], x)[-1:]
    with torch.no_grad():
        rough, exact = ((one.double().eval()(x)[0] - theirs).abs().mean() for one in both)
    assert rough < 0.1 * exact


@pytest.mark.parametrize("name", ["SPECTRE", "VoxelFM", "3DINO"])
def test_another_orientation_can_be_asked_for(name, tmp_path):
    encoder = read(name, tmp_path, ReadOptions(orientation="LPS"))
    ours = from_config(encoder.architecture).double().eval()
    load_encoder(ours, encoder)
    turn, x = turn_from("LPS"), image(PROJECTS[name], (3, 3, 3))
    with torch.no_grad():
        expected = turn.volume(features_of(PROJECTS[name], x)[-1])
        assert (ours(turn.volume(x))[0] - expected).abs().max() < 1e-6 * expected.abs().max()
    assert encoder.card["preprocessing"]["orientation"] == "LPS"


def test_spectre_has_the_features_of_its_own_package(tmp_path):
    fixture = released_fixture("spectre")
    weights = waves(fixture["shapes"])
    weights["rope.periods"] = torch.tensor([1.0, 1000.0**0.5])
    torch.save(weights, tmp_path / "spectre.pt")
    encoder = read_encoder(tmp_path / "spectre.pt")
    ours = from_config(encoder.architecture).eval()
    load_encoder(ours, encoder)
    turn, x = turn_from("RAS"), 5 * wave(fixture["image"], 0.3)
    with torch.no_grad():
        tokens = ours.encode_at(ours.embed(turn.volume(x)), turn.sizes(fixture["grid"]), [0, 1])
    for block, theirs in zip(tokens, fixture["features"], strict=True):
        expected = turn.volume(torch.tensor(theirs).reshape(1, 24, *fixture["grid"])).flatten(2).transpose(1, 2)
        assert (block - expected).abs().max() < 1e-6 * expected.abs().max()


@pytest.mark.parametrize(
    ("project", "has_scales"),
    [
        (Project("vit.", (8, 8, 8), width=128), False),  # of a masked autoencoder, for example
        (Project("", (4, 8, 8), registers="register_tokens", width=128), False),
        (Project("", (8, 8, 8), registers="register_tokens", width=128), True),  # TAP-CT's patches are flat
    ],
)
def test_another_transformer_with_a_class_token_is_no_published_one(project, has_scales, tmp_path):
    content = {
        name: torch.ones_like(value) if ".gamma" in name else value
        for name, value in file_of(project).items()
        if has_scales or ".gamma" not in name
    }
    torch.save(content, tmp_path / "own.pth")
    encoder = read_encoder(tmp_path / "own.pth")
    assert encoder.format == "ViT with a class token"
    assert encoder.card["preprocessing"] == {"orientation": "SPL"}
    assert (encoder.card["pretraining"], encoder.card["licence"], encoder.card["citations"]) == ({}, None, [])
    assert "restriction" not in encoder.card
    ours = from_config(encoder.architecture).double().eval()
    load_encoder(ours, encoder)
    x = image(project, (2, 3, 4))
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        unscaled = {
            name: torch.ones_like(value) if ".gamma" in name else value for name, value in weights_of(project).items()
        }
        patch.setattr(dino_reference, "weights_of", lambda _: unscaled)
        expected = features_of(project, x)[-1]
        assert (ours(x)[0] - expected).abs().max() < 1e-6 * expected.abs().max()


def test_what_the_licence_of_3dino_forbids_goes_with_its_weights(tmp_path):
    encoder = read("3DINO", tmp_path)
    report = load_encoder(from_config(encoder.architecture), encoder)
    assert "the licence forbids: weights that were fine-tuned or continued from these must not be shared" in str(report)


def test_a_network_of_another_size_says_so_and_missing_parts_are_refused(tmp_path):
    assert any("width 128, where the released 3DINO has 1024" in note for note in read("3DINO", tmp_path).notes)
    content = file_of(PROJECTS["VoxelFM"])
    del content["teacher"]["module.backbone.blocks.1.ls2.gamma"]
    torch.save(content, tmp_path / "less.pth")
    with pytest.raises(UserError, match=r"1 tensors missing \(blocks.1.ls2.gamma"):
        read_encoder(tmp_path / "less.pth")
    content = file_of(PROJECTS["3DINO"])
    content["teacher"]["backbone.pos_embed"] = torch.zeros(1, 12, 128)
    torch.save(content, tmp_path / "table.pth")
    with pytest.raises(UserError, match="11 positions in its table"):
        read_encoder(tmp_path / "table.pth")
