"""Mean teacher: which boxes become pseudo-boxes, and what they teach; the weight of both methods."""

from __future__ import annotations

import math

import pytest
import torch

from medpretrain3d.boxes import Detections, Targets
from medpretrain3d.detection import FCOS, DeformableDETR, HeatMap, RetinaNet, RetinaUNet
from medpretrain3d.errors import UserError
from medpretrain3d.loading.unlabeled_crops import UnlabeledBatch
from medpretrain3d.randomness import sample_seeds
from medpretrain3d.semi_supervised import FocalMix, MeanTeacher, SemiSupervised
from tests.host_waits import DEVICE, CountingDevice
from tests.tiny_detectors import tiny_detector

DETECTORS = [RetinaNet, RetinaUNet, FCOS]
BOXES = torch.tensor([[2.0, 2, 2, 8, 8, 8], [2, 2, 2, 8, 8, 9], [9, 9, 9, 14, 14, 14], [2, 2, 2, 8, 8, 8]])
FOUND = Detections(BOXES, torch.tensor([0.9, 0.8, 0.7, 0.3]), torch.tensor([1, 1, 0, 1]))


class Sure(torch.nn.Module):
    """A teacher that always finds the same."""

    def detect(self, image):
        return [FOUND] * len(image)


def image(count=2):
    return torch.randn(count, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))


def test_pseudo_boxes_are_sure_and_one_for_each_object():
    kept = MeanTeacher(score_threshold=0.5).pseudo_targets(FOUND)
    assert torch.equal(kept.boxes, BOXES[[2, 0]])  # class by class
    assert kept.labels.tolist() == [0, 1]
    assert len(MeanTeacher(score_threshold=0.7).pseudo_targets(FOUND).labels) == 2
    assert len(MeanTeacher(score_threshold=0.95).pseudo_targets(FOUND).labels) == 0


@pytest.mark.parametrize("cls", DETECTORS)
def test_they_are_learned_on_the_changed_crop_as_labels_are(cls):
    student, changed = tiny_detector(cls), image()
    unlabeled = UnlabeledBatch(torch.zeros_like(changed), changed, seeds=(3, 4))
    found = MeanTeacher(0.5, regression_weight=0.5).losses(student, Sure(), image(), [], unlabeled)
    assert found.counts == {"num_pseudo_boxes": 4}
    with sample_seeds(torch.tensor([3, 4])):
        expected = student.losses(changed, [Targets(BOXES[[0, 2]], torch.tensor([1, 0]))] * 2)
    assert found.losses.keys() == expected.keys() - {"cross_entropy", "dice"}
    for name, loss in found.losses.items():
        assert loss.item() == pytest.approx(expected[name].item() * (1.0 if name == "classification" else 0.5))
    assert set(MeanTeacher().losses(student, Sure(), image(), [], unlabeled).losses) == {"classification"}


@pytest.mark.parametrize("method", [MeanTeacher(), FocalMix()], ids=lambda one: type(one).__name__)
def test_detr_is_refused_with_the_reason_and_others_are_taken(method):
    with pytest.raises(UserError, match=r"got DeformableDETR, which predicts a set: none of its queries has a place"):
        method.check(tiny_detector(DeformableDETR))
    with pytest.raises(UserError, match=r"got HeatMap, which predicts no boxes at the cells of a pyramid"):
        method.check(tiny_detector(HeatMap))
    for cls in DETECTORS:
        assert method.check(tiny_detector(cls)) is not None


def test_the_weight_rises_over_the_ramp_behind_the_burn_in():
    method = SemiSupervised(weight=3.0, burn_in=0.1, ramp=0.4)
    weights = [method.weight_at(step, 100) for step in range(100)]
    assert weights[:10] == [0.0] * 10
    assert weights[10] == pytest.approx(3 * math.exp(-5))
    assert weights[30] == pytest.approx(3 * math.exp(-1.25))
    assert weights[50:] == [3.0] * 50
    assert weights == sorted(weights)
    assert SemiSupervised(weight=2.0, ramp=0.0).weight_at(0, 100) == 2.0
    # The published schedule: 40,000 of 150,000 steps.
    assert MeanTeacher().weight_at(40_500, 150_000) == 4.0


WAITS = {"MeanTeacher": {RetinaNet: 3, RetinaUNet: 3, FCOS: 2}, "FocalMix": {RetinaNet: 2, RetinaUNet: 2, FCOS: 2}}
"""For the teacher's detections or the labeled targets; for what is finite; of `HardNegativeBCE` for its counts."""


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("cls", DETECTORS)
@pytest.mark.parametrize("method", [MeanTeacher(0.0), FocalMix()], ids=lambda one: type(one).__name__)
def test_the_host_waits_a_few_times_whatever_the_batch(method, cls, size):
    with CountingDevice() as device:
        student = tiny_detector(cls).to(DEVICE)
        teacher = tiny_detector(cls).eval().to(DEVICE)
        here = image(size).to(DEVICE)
        labeled = [Targets(BOXES[[0, 2]], torch.tensor([1, 0])).to(DEVICE) for _ in range(size)]
        unlabeled = UnlabeledBatch(here, here, seeds=tuple(range(size)))
        for _ in range(2):
            device.reset()
            found = method.losses(student, teacher, here, labeled, unlabeled)
            torch.stack(list(found.losses.values())).sum().backward()
        assert len(device.waits) == WAITS[type(method).__name__][cls], device.summary
