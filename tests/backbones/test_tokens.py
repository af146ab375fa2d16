from __future__ import annotations

import pytest
import torch

from medpretrain3d.backbones import DinoViT, Primus, ViT
from medpretrain3d.backbones.tokens import DropPath, drop_paths
from medpretrain3d.command_line.composition import composed, recipe_layers
from medpretrain3d.command_line.recipes import find_recipe


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
    assert [drop.probability for drop in drop_paths(0.2, 3, is_uniform=True)] == [0.2] * 3


def test_every_block_of_a_dino_transformer_may_drop_alike():
    """As in 3DINO, whose recipe says 0.3 of every block; by default only the last one's are left out so often."""
    for is_uniform, expected in ((False, [0, 0.15, 0.3]), (True, [0.3] * 3)):
        backbone = DinoViT(width=48, depth=3, heads=2, drop_path=0.3, drop_path_uniform=is_uniform)
        drops = [part.probability for part in backbone.modules() if isinstance(part, DropPath)]
        assert sorted(set(drops)) == pytest.approx(sorted(set(expected)))
    recipe = composed(recipe_layers(find_recipe("dinov2_vit_l", "pretrain"), "pretrain"))
    arguments = recipe["model"]["objective"]["init_args"]["backbone"]["init_args"]
    assert (arguments["drop_path"], arguments["drop_path_uniform"]) == (0.3, True)


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
