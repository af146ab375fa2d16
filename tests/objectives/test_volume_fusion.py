from __future__ import annotations

import pytest
import torch

from medpretrain3d.errors import UserError
from medpretrain3d.objectives import VolumeFusion
from medpretrain3d.objectives.volume_fusion import soft_dice_loss
from tests.tiny import tiny_backbone


class Recorder(torch.nn.Module):
    """A backbone's place in an objective, to see what the network is shown."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, image):
        self.seen = image
        return self.backbone(image)


def test_the_label_is_the_mixing_coefficient():
    # The first volume is 1 everywhere and the second 0, so what the network sees is alpha itself.
    objective = VolumeFusion(tiny_backbone())
    recorder = objective.backbone = Recorder(objective.backbone)
    pair = torch.stack([torch.ones(2, 1, 32, 32, 32), torch.zeros(2, 1, 32, 32, 32)], dim=1)
    preview = objective({"image": pair, "seed": torch.tensor([1, 2])}).preview
    for seen, seed in zip(recorder.seen, (1, 2), strict=True):
        label = objective.draw_label((32, 32, 32), torch.tensor(seed))
        assert torch.equal(seen[0] * 4, label.float())
    assert torch.equal(preview["coefficient"], 2 * preview["fused"] - 1)
    assert set(recorder.seen.unique().tolist()) == {0.0, 0.25, 0.5, 0.75, 1.0}


def test_labels_are_made_of_boxes():
    objective = VolumeFusion(tiny_backbone(), num_boxes=(1, 1), box_edge=(8, 100))
    seen = set()
    for seed in range(40):
        label = objective.draw_label((24, 32, 40), torch.tensor(seed))
        inside = torch.nonzero(label)
        if len(inside):
            low, high = inside.amin(dim=0), inside.amax(dim=0) + 1
            assert (high - low >= 8).all()
            assert len(inside) == (high - low).prod()  # a full box
            assert len(label[label > 0].unique()) == 1
        seen |= set(label.unique().tolist())
    assert seen == {0, 1, 2, 3, 4}


def test_soft_dice_by_hand():
    label = torch.tensor([0, 0, 1, 1]).reshape(1, 1, 1, 4)
    probabilities = torch.tensor([[1.0, 0.5, 0.5, 0.0], [0.0, 0.5, 0.5, 1.0], [0.0] * 4]).reshape(1, 3, 1, 1, 4)
    # Each class that occurs: 2 * 1.5 / (2 + 2). The third does not occur and does not count.
    assert soft_dice_loss(probabilities, label).item() == pytest.approx(1 - 0.75)


def test_what_is_wrong_is_named():
    objective = VolumeFusion(tiny_backbone())
    with pytest.raises(UserError, match=r"patch \(16, 4, 16\) is smaller than the smallest box, 8 voxels"):
        objective.draw_label((16, 4, 16), torch.tensor(0))
    with pytest.raises(UserError, match=r"set data\.views to VolumePairs"):
        objective({"image": torch.zeros(2, 1, 16, 16, 16), "seed": torch.tensor([0, 1])})
    with pytest.raises(UserError, match="num_classes 1"):
        VolumeFusion(tiny_backbone(), num_classes=1)
    with pytest.raises(UserError, match=r"num_boxes \[5, 4\]"):
        VolumeFusion(tiny_backbone(), num_boxes=(5, 4))
