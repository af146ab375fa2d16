from __future__ import annotations

import json

import pytest
import torch

from medpretrain3d.backbones import ResEnc, TokenPyramid, ViT, load_encoder, read_encoder, save_encoder
from medpretrain3d.configurable import from_config
from medpretrain3d.errors import UserError


@pytest.fixture
def encoder_folder(tmp_path):
    torch.manual_seed(0)
    save_encoder(tmp_path / "encoder", ResEnc("XXS"), {"pretraining": {"steps": 7}})
    return tmp_path / "encoder"


def test_round_trip_gives_the_same_features(encoder_folder):
    torch.manual_seed(0)
    original = ResEnc("XXS")
    encoder = read_encoder(encoder_folder)
    other = from_config(encoder.architecture)
    report = load_encoder(other, encoder)
    x = torch.randn(1, 1, 16, 16, 16)
    for a, b in zip(original(x), other(x), strict=True):
        assert torch.equal(a, b)
    assert encoder.card["pretraining"]["steps"] == 7
    assert report.matched == report.total == len(original.state_dict())


def test_report_names_what_stays_random(encoder_folder):
    model = torch.nn.ModuleDict({"backbone": ResEnc("XXS"), "heads": torch.nn.Linear(2, 2)})
    report = load_encoder(model["backbone"], read_encoder(encoder_folder), model)
    assert report.fresh == {"heads": 2}
    assert "fresh: heads (2); unused: none" in str(report)


def test_a_pyramid_is_filled_with_its_transformer_or_whole(tmp_path):
    save_encoder(tmp_path / "vit", ViT("XXS"), {})
    pyramid = TokenPyramid(ViT("XXS"), num_finer=1)
    report = load_encoder(pyramid, read_encoder(tmp_path / "vit"), torch.nn.ModuleDict({"backbone": pyramid}))
    assert report.matched == len(pyramid.encoder.state_dict())
    assert report.fresh == {"backbone": 4}  # weight and bias of one transposed convolution and its norm
    save_encoder(tmp_path / "pyramid", pyramid, {})
    assert load_encoder(pyramid, read_encoder(tmp_path / "pyramid")).matched == report.matched + 4


def test_another_architecture_is_refused_and_nothing_is_loaded(encoder_folder):
    backbone = ResEnc("XS")
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(
        UserError, match=r"encoder of another architecture: got ResEnc\(preset=XXS.*wanted ResEnc\(preset=XS"
    ):
        load_encoder(backbone, read_encoder(encoder_folder))
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_saving_again_replaces_and_leaves_nothing_behind(encoder_folder):
    save_encoder(encoder_folder, ResEnc("XXS", in_channels=2), {})
    assert read_encoder(encoder_folder).architecture["init_args"]["in_channels"] == 2
    assert [path.name for path in encoder_folder.parent.iterdir()] == ["encoder"]


def test_damaged_files_are_refused(encoder_folder, tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        read_encoder(tmp_path / "nowhere")
    weights = encoder_folder / "encoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="sha256 differs"):
        read_encoder(encoder_folder)
    card = encoder_folder / "encoder.json"
    card.write_text(json.dumps({**json.loads(card.read_text(encoding="utf-8")), "version": 99}))
    with pytest.raises(UserError, match="version 99"):
        read_encoder(encoder_folder)
    card.write_text("{")
    with pytest.raises(UserError, match="no encoder card"):
        read_encoder(encoder_folder)
