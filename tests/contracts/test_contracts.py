"""One test over every objective and detector: a new one is tested by existing. Backbones: test_backbones.py."""

from __future__ import annotations

import copy
import inspect
import json
import re

import pytest
import torch

from medpretrain3d import detection, objectives
from medpretrain3d.boxes import Targets
from medpretrain3d.configurable import from_config, to_config
from medpretrain3d.detection import Detector
from medpretrain3d.objectives import MAE, Objective
from tests.tiny import TINY_BACKBONES, tiny_backbone
from tests.tiny_detectors import TINY_DETECTORS, tiny_detector
from tests.tiny_objectives import PAIRS, PATCHES, TINY_OBJECTIVES, refusal, tiny_objective

DETECTORS = list(TINY_DETECTORS)


def test_every_class_of_the_package_has_its_tiny_example():
    assert set(TINY_DETECTORS) >= exported(detection, Detector)
    assert set(TINY_OBJECTIVES) >= exported(objectives, Objective)


def exported(package, base):
    classes = [getattr(package, name) for name in package.__all__]
    return {cls for cls in classes if inspect.isclass(cls) and issubclass(cls, base) and cls is not base}


def image(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def targets() -> list[Targets]:
    some = Targets(torch.tensor([[2.0, 3, 4, 9, 9, 9]]), torch.tensor([1]), torch.zeros(16, 16, 16, dtype=torch.long))
    none = Targets(torch.zeros(0, 6), torch.zeros(0, dtype=torch.long))
    return [some, none]


def untrained(module: torch.nn.Module) -> list[str]:
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad and parameter.grad is None]


def crops(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return batch["image"] if "image" in batch else batch["base"]


@pytest.mark.parametrize(("cls", "name"), PAIRS, ids=[f"{cls.__name__} {name}" for cls, name in PAIRS])
def test_objectives_refuse_a_backbone_or_train_every_parameter_and_repeat_themselves(cls, name):
    if told := refusal(cls, name):
        assert re.search(r"use|pretrain", told), "says what to take instead"
        return
    objective = tiny_objective(cls, name)
    batch = TINY_OBJECTIVES[cls].batch(name, 5)
    out = objective(batch)
    out.loss.backward()
    assert untrained(objective) == []  # DDP needs them all
    assert torch.equal(out.loss, objective(batch).loss)
    assert all(volume.ndim == 3 and not volume.requires_grad for volume in out.preview.values())
    for size, step in zip(crops(batch).shape[-3:], objective.patch_stride, strict=True):
        assert size % step == 0


@pytest.mark.parametrize("name", PATCHES)
def test_a_backbone_is_trained_by_most_objectives(name):
    takes_it = [cls for cls in TINY_OBJECTIVES if not refusal(cls, name)]
    assert MAE in takes_it
    assert len(takes_it) > len(TINY_OBJECTIVES) / 3


@pytest.mark.parametrize("cls", TINY_OBJECTIVES)
def test_an_objective_trains_several_kinds_of_backbones(cls):
    assert len([name for name in PATCHES if not refusal(cls, name)]) > 2


@pytest.mark.parametrize("cls", DETECTORS)
@pytest.mark.parametrize("which", ["objects", "no objects"])
def test_detectors_train_every_parameter(cls, which):
    detector = tiny_detector(cls)
    losses = detector.losses(image(), targets() if which == "objects" else [targets()[1]] * 2)
    assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert untrained(detector) == []


@pytest.mark.parametrize("cls", DETECTORS)
def test_detections_lie_in_the_image_with_falling_scores(cls):
    found = tiny_detector(cls).eval().detect(image())
    assert len(found) == 2
    for one in found:
        assert one.boxes.dtype == torch.float32
        assert (one.boxes >= 0).all()
        assert (one.boxes <= 16).all()
        assert (one.scores.diff() <= 0).all()
        assert ((one.scores >= 0) & (one.scores <= 1)).all()
        assert set(one.labels.tolist()) <= {0, 1}


@pytest.mark.parametrize(
    "part",
    [tiny_backbone(name) for name in TINY_BACKBONES]
    + [tiny_objective(cls) for cls in TINY_OBJECTIVES]
    + [tiny_detector(cls) for cls in DETECTORS],
    ids=lambda part: type(part).__name__,
)
def test_every_part_can_be_rebuilt_from_plain_data(part):
    twin = from_config(json.loads(json.dumps(to_config(part))))
    twin.load_state_dict(part.state_dict())
    assert to_config(twin) == to_config(part)
    assert to_config(copy.deepcopy(part)) == to_config(part)
