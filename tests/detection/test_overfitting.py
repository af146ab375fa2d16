"""Every kind of detector learns one tiny case by heart: two objects of two classes, and nothing else is reported."""

from __future__ import annotations

import pytest
import torch

from medpretrain3d.boxes import Targets
from medpretrain3d.detection import FCOS, DeformableDETR, Denoising, FocalLoss, RetinaNet, RetinaUNet
from medpretrain3d.evaluation import PredictedCase, TargetCase, evaluate
from tests.tiny_detectors import tiny_detector

SHAPE = (16, 24, 24)
BOXES = torch.tensor([[2.0, 3, 3, 9, 10, 10], [6, 13, 12, 14, 22, 20]])


def case():
    """A volume of noise with a bright and a dark block, and its targets."""
    random = torch.Generator().manual_seed(0)
    image = torch.randn(1, 1, *SHAPE, generator=random) * 0.1
    mask = torch.zeros(SHAPE, dtype=torch.long)
    for index, box in enumerate(BOXES.long().tolist()):
        inside = tuple(slice(box[axis], box[axis + 3]) for axis in range(3))
        image[0, 0][inside] += (1.0, -1.0)[index]
        mask[inside] = index + 1
    return image, Targets(BOXES, torch.tensor([0, 1]), mask)


@pytest.mark.parametrize(
    ("detector", "options", "steps", "lr"),
    [
        (RetinaNet, {"classification": FocalLoss()}, 60, 5e-3),
        (RetinaUNet, {"classification": FocalLoss()}, 60, 5e-3),
        (FCOS, {"first_level": 1}, 80, 5e-3),
        (DeformableDETR, {"auxiliary": Denoising(groups=3)}, 120, 4e-3),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_learns_one_case_by_heart(detector, options, steps, lr):
    model = tiny_detector(detector, **options)
    image, target = case()
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.2)
    for _ in range(steps):
        optimiser.zero_grad()
        sum(model.losses(image, [target]).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    found = model.eval().detect(image)[0]
    predicted = PredictedCase("case", found.boxes.numpy(), found.scores.numpy(), found.labels.numpy())
    true = TargetCase("case", target.boxes.numpy(), target.labels.numpy())
    metrics = evaluate([predicted], [true], ["bright", "dark"], num_bootstrap=0)
    assert metrics["AP_IoU_0.50_MaxDet_100"] == 1
    assert metrics["mAP_IoU_0.10_0.50_0.05_MaxDet_100"] == 1
