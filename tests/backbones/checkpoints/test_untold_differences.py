"""What the report of loading says of networks that the weights fit: all that changes features, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medpretrain3d.backbones import Backbone, DinoViT, EncoderFile, Primus, ResEnc, TokenPyramid, ViT, load_encoder
from medpretrain3d.configurable import to_config

GRID = {"position_grid": (2, 2, 2)}
VIT = {"preset": "XXS", "patch_size": (8, 8, 8), **GRID}
DINO = {"width": 48, "depth": 2, "heads": 2, "patch_size": (8, 8, 8)}


def loaded(theirs: Backbone, ours: Backbone) -> tuple[str, bool]:
    """Put one network's weights into another; returns the report, and whether the features are the same then."""
    torch.manual_seed(0)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    report = str(load_encoder(ours, EncoderFile(to_config(theirs), theirs.state_dict(), {}, "0" * 64)))
    image = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        pairs = zip(theirs.eval()(image), ours.eval()(image), strict=True)
        return report, all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (DinoViT(**DINO, rope_base=1000.0), DinoViT(**DINO)),  # whose periods the file brings
        (DinoViT(**DINO, layer_scale=1.0), DinoViT(**DINO)),  # whose factors it brings
        (Primus("XXS", **GRID, layer_scale=1.0), Primus("XXS", **GRID)),
        (TokenPyramid(ViT(**VIT, drop_path=0.2)), TokenPyramid(ViT(**VIT, checkpointing=True))),
        (Primus("XXS", **GRID), Primus(None, width=48, depth=2, heads=2, **GRID)),
    ],
    ids=["periods", "layer scale", "layer scale of Primus", "inside of a pyramid", "a preset's own heads"],
)
def test_what_changes_no_feature_is_not_told(theirs, ours):
    report, is_same = loaded(theirs, ours)
    assert is_same
    assert "features differ" not in report


@pytest.mark.parametrize(
    ("theirs", "ours", "told"),
    [
        (Primus(None, width=48, depth=2, heads=1, **GRID), Primus("XXS", **GRID), "heads is 2, in the file 1"),
        (ViT(**VIT), ViT(**{**VIT, "preset": None}, width=48, depth=2, heads=6), "heads is 6, in the file 3"),
        (TokenPyramid(DinoViT(**DINO)), TokenPyramid(DinoViT(**DINO, norm_eps=0.1)), "norm_eps is 0.1, in the file"),
        (
            TokenPyramid(DinoViT(**{**DINO, "depth": 3}), blocks=[0, 2]),
            TokenPyramid(DinoViT(**{**DINO, "depth": 3}), blocks=[1, 2]),
            "blocks is [1, 2], in the file [0, 2]",
        ),
    ],
    ids=["heads against a preset", "a preset against heads", "inside of a pyramid", "blocks of a pyramid"],
)
def test_what_changes_features_is_told(theirs, ours, told):
    report, is_same = loaded(theirs, ours)
    assert not is_same
    assert f"note: {told}" in report
    assert "features differ until fine-tuned" in report


def test_more_stages_are_told_as_fresh_alone():
    sizes = {"preset": None, "channels": [8, 16], "blocks": [1, 1]}
    ours = ResEnc(None, channels=[8, 16, 32], blocks=[1, 1, 1])
    theirs = ResEnc(**sizes)
    report = str(load_encoder(ours, EncoderFile(to_config(theirs), theirs.state_dict(), {}, "0" * 64)))
    assert "fresh: stages.2" in report
    assert "features differ" not in report
