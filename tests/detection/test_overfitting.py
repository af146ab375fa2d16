"""Every kind of detector learns a phantom case by heart: two nodules in a lung, and nothing else is reported."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medpretrain3d.boxes import Targets
from medpretrain3d.detection import (
    FCOS,
    AnchorGrid,
    BallTarget,
    DeformableDETR,
    Denoising,
    FocalLoss,
    HeatMap,
    RetinaNet,
    RetinaUNet,
)
from medpretrain3d.evaluation import PredictedCase, TargetCase, evaluate
from medpretrain3d.phantom import make_case
from medpretrain3d.store.intensity import Window
from tests.tiny_detectors import TINY_DETECTORS, tiny_detector

NODULES = torch.tensor([[5.0, 12, 6, 9, 16, 10], [17, 5, 7, 21, 9, 11]])
SMALL = AnchorGrid([[(4, 4, 4), (6, 6, 6)], [(8, 8, 8), (12, 12, 12)]])


@pytest.fixture(scope="module")
def case():
    """24^3 voxels of 4 mm with vessels, ribs, look-alikes and two nodules 14 and 15 mm wide."""
    phantom = make_case(seed=0, index=3, spacing_mm=4.0)
    place = np.s_[24:48, 24:48, 44:68]
    image = torch.from_numpy(Window()(phantom.image[place][None]))[None]
    mask = torch.from_numpy((phantom.instances[place] > 0).astype(np.int64))
    inside = torch.zeros_like(mask)
    for d0, h0, w0, d1, h1, w1 in NODULES.long().tolist():
        inside[d0:d1, h0:h1, w0:w1] = 1
    assert mask.any()
    assert (inside >= mask).all()  # the boxes are those of the nodules
    return image, Targets(NODULES, torch.tensor([0, 0]), mask)


RECIPES = {
    RetinaNet: ({"classification": FocalLoss(), "anchors": SMALL, "first_level": 1}, 60, 5e-3),
    RetinaUNet: ({"classification": FocalLoss(), "anchors": SMALL, "first_level": 1}, 60, 5e-3),
    FCOS: ({"first_level": 1}, 80, 5e-3),
    HeatMap: ({"spacing_mm": (4.0, 4.0, 4.0), "target": BallTarget(radius_mm=12.0), "regression": "box"}, 100, 5e-3),
    DeformableDETR: ({"num_levels": 3, "auxiliary": Denoising(groups=3)}, 120, 4e-3),
}
"""Options, steps and learning rate; a detector that is not named learns as its example is."""


@pytest.mark.parametrize("detector", TINY_DETECTORS, ids=lambda cls: cls.__name__)
def test_learns_one_case_by_heart(case, detector):
    options, steps, lr = RECIPES.get(detector, ({}, 120, 5e-3))
    model = tiny_detector(detector, num_classes=1, **options)
    image, target = case
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.2)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(model.losses(image, [target]).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    found = model.eval().detect(image)[0]
    predicted = PredictedCase("case", found.boxes.numpy(), found.scores.numpy(), found.labels.numpy())
    true = TargetCase("case", target.boxes.numpy(), target.labels.numpy())
    metrics = evaluate([predicted], [true], ["nodule"], num_bootstrap=0)
    assert metrics["AP_IoU_0.50_MaxDet_100"] == 1
    assert metrics["mAP_IoU_0.10_0.50_0.05_MaxDet_100"] == 1
