from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from medpretrain3d.backbones.base import Backbone, Level
from medpretrain3d.boxes import Targets, box_iou
from medpretrain3d.detection import AnchorGrid, RetinaNet


class Pooling(Backbone):
    """Levels of strides 1, 2, 4: cheap, and fit for sizes that the strides do not divide."""

    def __init__(self) -> None:
        super().__init__()
        self.in_channels = 1
        self.convs = nn.ModuleList(nn.Conv3d(c, 8, 3, padding=1) for c in (1, 8, 8))
        self.levels = tuple(Level(8, (s, s, s)) for s in (1, 2, 4))

    def forward(self, image: Tensor) -> list[Tensor]:
        features = [torch.relu(self.convs[0](image))]
        for conv in self.convs[1:]:
            pooled = nn.functional.max_pool3d(features[-1], 2, ceil_mode=True)
            features.append(torch.relu(conv(pooled)))
        return features


def make(**options) -> RetinaNet:
    torch.manual_seed(0)
    return RetinaNet(Pooling(), 1, AnchorGrid([[(5, 5, 5)], [(8, 8, 8)]]), first_level=1, fpn_channels=16, **options)


def test_every_anchor_starts_near_the_prior():
    model = make()
    assert model.classification_head.output.bias.tolist() == pytest.approx([-math.log(99)])
    scores = model.detect(torch.zeros(1, 1, 8, 8, 8))[0].scores
    assert 0.005 < scores.min() <= scores.max() < 0.03


def test_sizes_that_the_stride_does_not_divide():
    model = make()
    image = torch.randn(1, 1, 9, 11, 13)
    sum(model.losses(image, [Targets(torch.tensor([[1.0, 1, 1, 6, 6, 6]]), torch.tensor([0]))]).values()).backward()
    assert (model.detect(image)[0].boxes[:, 3:] <= torch.tensor([9, 11, 13])).all()


def test_owns_nothing_finer_than_its_detection_levels():
    assert [module.in_channels for module in make().fpn.lateral] == [8, 8]
    assert sorted(make().fpn.output) == ["0", "1"]


def test_boxes_are_decoded_at_their_anchor():
    # Deltas are pinned to 0 and one logit is raised: the best box must be the anchor of that cell.
    model = make()
    nn.init.zeros_(model.box_head.output.weight)
    nn.init.zeros_(model.classification_head.output.weight)
    image = torch.zeros(1, 1, 8, 8, 16)
    pyramid = [torch.zeros(1, 16, 4, 4, 8), torch.zeros(1, 16, 2, 2, 4)]
    logits, anchor = torch.full((4 * 4 * 8 + 2 * 2 * 4, 1), -9.0), 4 * 4 * 8 + 1 * 2 * 4 + 0 * 4 + 2
    logits[anchor] = 2.0
    model.classification_head.forward = lambda _: logits[None]
    found = model._detections(pyramid, tuple(image.shape[2:]))[0]
    assert found.scores[0].item() == pytest.approx(1 / (1 + 2.718281828**-2))
    # Cell (1, 0, 2) of stride 4 has its centre at (6, 2, 10); the anchor of 8 voxels is cut at the image.
    assert found.boxes[0].tolist() == [2, 0, 6, 8, 6, 14]


def test_sixty_lesions_of_many_anchors_each_are_all_found():
    torch.manual_seed(0)
    sizes = [[(d, h, w) for d in (4, 6, 8) for h in (4, 6, 8) for w in (4, 6, 8)]]
    detector = RetinaNet(Pooling(), 1, AnchorGrid(sizes), first_level=2, fpn_channels=16, nms_iou=0.3)
    anchors = detector.anchors([(16, 16, 16)], [(4, 4, 4)], "cpu")  # 27 in each of 16^3 cells
    corners = [[12 * d, 12 * h, 12 * w] for d in range(5) for h in range(4) for w in range(3)]
    lesions = torch.tensor([[d, h, w, d + 6, h + 6, w + 6] for d, h, w in corners], dtype=torch.float32)
    iou, nearest = box_iou(anchors, lesions).max(dim=1)
    logits = torch.where(iou > 0.1, iou, -9.0)[:, None]
    deltas = detector.coder.encode(lesions[nearest], anchors)
    found = detector._decoded(logits[None], deltas[None], anchors, (64, 64, 64))[0]
    assert int((iou > 0.1).sum()) > 1000
    is_found = box_iou(lesions, found.boxes[found.scores > 0.5]).amax(dim=1) > 0.9
    assert int(is_found.sum()) == 60
