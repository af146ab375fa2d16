from __future__ import annotations

import pytest
import torch

from medpretrain3d.backbones import ResEnc
from medpretrain3d.errors import UserError
from medpretrain3d.objectives import SwinMultiTask
from medpretrain3d.objectives.counter_rng import CounterRNG
from tests.tiny import tiny_backbone


@pytest.mark.parametrize(("width", "turned"), [(16, {0, 1, 2, 3}), (24, {0, 2})])
def test_a_view_is_turned_by_its_label_and_cut_elsewhere_only(width, turned):
    objective = SwinMultiTask(tiny_backbone())
    image = torch.arange(8 * 16 * width, dtype=torch.float32).reshape(1, 8, 16, width) + 2  # above any noise
    seen = set()
    for seed in range(30):
        cut, whole, turns = objective.draw_view(image, CounterRNG(torch.tensor(seed)))
        assert torch.equal(torch.rot90(whole, -turns, (2, 3)), image)
        kept = cut >= 2
        assert torch.equal(cut[kept], whole[kept])
        assert cut[~kept].min() >= -1
        seen.add(turns)
    assert seen == turned


def test_boxes_hold_the_share_that_was_asked_for():
    objective = SwinMultiTask(tiny_backbone(), cut_share=0.3)
    share = torch.stack(
        [objective.draw_cuts((32, 48, 48), CounterRNG(torch.tensor(s))).float().mean() for s in range(40)]
    )
    # Overlaps are counted twice: 1 - exp(-0.3) = 0.26 of the voxels if boxes fall independently; near the faces fewer.
    assert 0.2 < share.mean() < 0.3
    assert share.max() < 0.3 + 0.25**3


def test_losses_add_up_with_their_weights():
    torch.manual_seed(0)
    objective = SwinMultiTask(tiny_backbone(), rotation_weight=2, contrast_weight=3, restoration_weight=5)
    out = objective({"image": torch.rand(2, 1, 16, 16, 16), "seed": torch.tensor([1, 2])})
    expected = 2 * out.logs["rotation"] + 3 * out.logs["contrast"] + 5 * out.logs["restoration"]
    assert out.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_equal_vectors_give_the_closed_form():
    objective = SwinMultiTask(tiny_backbone())
    torch.nn.init.zeros_(objective.contrast_head.weight)
    out = objective({"image": torch.rand(3, 1, 16, 16, 16), "seed": torch.arange(3)})
    assert out.logs["contrast"].item() == pytest.approx(torch.log(torch.tensor(5.0)).item(), rel=1e-5)  # ln(2n - 1)


def test_what_is_wrong_is_named():
    objective = SwinMultiTask(tiny_backbone())
    with pytest.raises(UserError, match="batch of 1"):
        objective({"image": torch.rand(1, 1, 16, 16, 16), "seed": torch.arange(1)})
    with pytest.raises(UserError, match="TokenPyramid"):
        SwinMultiTask(tiny_backbone("TokenPyramid"))
    with pytest.raises(UserError, match="cut_share 0"):
        SwinMultiTask(ResEnc("XXS"), cut_share=0)
    with pytest.raises(UserError, match="cut_edge"):
        SwinMultiTask(ResEnc("XXS"), cut_edge=(0.5, 0.2))
