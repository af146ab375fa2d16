"""An encoder file that holds neck and heads too, in a file beside the encoder and under the same card."""

from __future__ import annotations

import pytest
import torch

from medpretrain3d.backbones import DetectorPart, ResEnc, read_encoder, save_encoder
from medpretrain3d.backbones.checkpoints import write_encoder
from medpretrain3d.cli import main
from medpretrain3d.configurable import to_config
from medpretrain3d.detection import FCOS
from medpretrain3d.errors import UserError


def written(folder, scale=1.0):
    torch.manual_seed(0)
    detector = FCOS(ResEnc("XXS"), 2, fpn_channels=8, head_convs=1)
    detector.box_head.scale.data.fill_(scale)
    part = DetectorPart.of_state(to_config(detector), detector.state_dict())
    backbone = detector.backbone
    sha256 = write_encoder(folder, to_config(backbone), backbone.state_dict(), {"licence": "cc0"}, detector=part)
    return sha256, detector


def test_it_is_read_back_whole_and_its_hash_is_of_both_files(tmp_path):
    sha256, detector = written(tmp_path / "a")
    encoder = read_encoder(tmp_path / "a")
    assert encoder.detector is not None
    assert encoder.sha256 == sha256 != encoder.card["weights_sha256"]
    state = {**{f"backbone.{name}": value for name, value in encoder.weights.items()}, **encoder.detector.weights}
    assert state.keys() == detector.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in detector.state_dict().items())
    other, _ = written(tmp_path / "b", scale=2.0)  # the same encoder, kept frozen
    assert read_encoder(tmp_path / "b").card["weights_sha256"] == encoder.card["weights_sha256"]
    assert other != sha256


def test_an_encoder_alone_has_no_detector_and_the_hash_that_it_always_had(tmp_path):
    sha256 = save_encoder(tmp_path / "alone", ResEnc("XXS"), {})
    encoder = read_encoder(tmp_path / "alone")
    assert encoder.detector is None
    assert encoder.sha256 == sha256 == encoder.card["weights_sha256"]
    assert sorted(path.name for path in (tmp_path / "alone").iterdir()) == ["encoder.json", "encoder.safetensors"]


def test_an_export_keeps_neck_and_heads(tmp_path):
    sha256, _ = written(tmp_path / "a")
    assert main(["export", str(tmp_path / "a"), "-o", str(tmp_path / "out")]) == 0
    assert read_encoder(tmp_path / "out").sha256 == sha256


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_neck_and_heads_that_are_not_those_of_the_card_are_refused(tmp_path, damage):
    written(tmp_path / "a")
    file = tmp_path / "a" / "detector.safetensors"
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match=r"detector\.safetensors"):
        read_encoder(tmp_path / "a")
