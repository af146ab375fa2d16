"""COLIPRI: a Primus below `image_encoder.backbone`, turned from either orientation that its authors stated."""

from __future__ import annotations

import pytest
import torch

from medpretrain3d.backbones import Primus, ReadOptions, load_encoder, read_encoder
from medpretrain3d.backbones.checkpoints.frame import turn_from
from medpretrain3d.configurable import from_config


def released(tmp_path):
    """A file as the package writes it: `backbone` is a Primus without a table of positions, its decoder an identity."""
    torch.manual_seed(0)
    theirs = Primus("XXS", position_grid=(24, 24, 24)).eval()
    torch.nn.init.zeros_(theirs.eva.pos_embed)
    weights = {f"image_encoder.backbone.{name}": value for name, value in theirs.state_dict().items()}
    del weights["image_encoder.backbone.eva.pos_embed"]
    weights["image_encoder.backbone.mask_token"] = torch.zeros(1, 1, 48)
    weights["image_encoder.projector.weight"] = torch.zeros(8, 48, 1, 1, 1)
    weights["text_encoder.backbone.embeddings.weight"] = torch.zeros(3, 3)
    torch.save(weights, tmp_path / "model.pt")
    return theirs, tmp_path / "model.pt"


@pytest.mark.parametrize("orientation", [None, "RAS", "SAR"])
def test_the_network_sees_a_turned_volume_as_the_original_saw_its_own(orientation, tmp_path):
    theirs, path = released(tmp_path)
    encoder = read_encoder(path, ReadOptions(orientation=orientation))
    assert encoder.format == "COLIPRI checkpoint"
    assert encoder.unused == {"mask_token": 1, "projector": 1, "text_encoder": 1} or sum(encoder.unused.values()) == 3
    assert encoder.architecture["init_args"]["position_grid"] == [24, 24, 24]
    stated = encoder.card["preprocessing"]
    assert (stated["orientation"], stated["spacing_mm"]) == (orientation or "RAS", [2.0, 2.0, 2.0])
    assert any("--orientation SAR" in note for note in encoder.notes) == (orientation is None)
    ours = from_config(encoder.architecture).eval()
    report = load_encoder(ours, encoder)
    assert report.matched == report.total
    turn = turn_from(orientation or "RAS")
    x = torch.randn(1, 1, 16, 24, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, features = turn.volume(theirs(x)[0]), ours(turn.volume(x))[0]
    assert features.shape == expected.shape
    assert (features - expected).abs().max() < 1e-6 * expected.abs().max()
