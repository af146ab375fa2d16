from __future__ import annotations

import pytest
import torch

from medpretrain3d.backbones import Primus, ViT
from medpretrain3d.backbones.tokens import DropPath, drop_paths


def test_a_branch_is_left_out_of_whole_samples_and_keeps_its_mean():
    torch.manual_seed(0)
    ones = torch.ones(4000, 2, 3)
    dropped = DropPath(0.5).train()(ones)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert (dropped == dropped[:, :1, :1]).all()
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(DropPath(0.5).eval()(ones), ones)


def test_probabilities_rise_from_0_to_the_last():
    assert [drop.probability for drop in drop_paths(0.2, 3)] == pytest.approx([0, 0.1, 0.2])
    assert [drop.probability for drop in drop_paths(0.2, 1)] == [0]


@pytest.mark.parametrize("cls", [ViT, Primus])
def test_drop_path_acts_in_training_alone(cls):
    image = torch.randn(4, 1, 16, 24, 16)
    features = {}
    for drop_path in (0.0, 0.9):
        torch.manual_seed(0)
        backbone = cls("XXS", patch_size=(8, 8, 8), position_grid=(2, 2, 2), drop_path=drop_path)
        with torch.no_grad():
            features[drop_path] = backbone.eval()(image)[0], backbone.train()(image)[0]
    assert torch.equal(features[0.0][0], features[0.9][0])
    assert torch.equal(*features[0.0])
    assert not torch.equal(*features[0.9])
