"""Learning rates of pretraining that goes on from neck and heads of a file."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from medpretrain3d.backbones import DetectorPart, ResEnc
from medpretrain3d.backbones.checkpoints import write_encoder
from medpretrain3d.configurable import to_config
from medpretrain3d.detection import FCOS
from medpretrain3d.engine.optimizer import OptimConfig
from medpretrain3d.objectives import DetectorPretraining
from pretrain.module import PretrainModule

SCALES = {"backbone_lr_scale": 0.5, "transferred_lr_scale": 0.25, "fresh_lr_scale": 2.0}


@pytest.fixture
def detector_file(tmp_path):
    theirs = FCOS(ResEnc("XXS"), num_classes=3, fpn_channels=16, head_convs=1)
    state = theirs.state_dict()
    own = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
    part = DetectorPart.of_state(to_config(theirs), state)
    write_encoder(tmp_path / "encoder", to_config(theirs.backbone), own, {}, detector=part)
    return str(tmp_path / "encoder")


def rates(init_from: str | None) -> dict[str, float]:
    """The peak rate of each parameter, by its name in the objective."""
    objective = DetectorPretraining(FCOS(ResEnc("XXS"), num_classes=1, fpn_channels=16, head_convs=1))
    module = PretrainModule(objective, OptimConfig(lr=1.0, warmup_steps=0, **SCALES), init_from)
    module._trainer = SimpleNamespace(max_steps=10)
    groups = module.configure_optimizers()["optimizer"].param_groups
    found = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    return {name: found[id(parameter)] for name, parameter in objective.named_parameters()}


def test_neck_and_heads_of_a_file_have_the_rate_of_what_was_transferred(detector_file):
    found = rates(detector_file)
    assert {rate for name, rate in found.items() if name.startswith("backbone.")} == {0.5}
    assert {rate for name, rate in found.items() if name.startswith("detector.fpn.")} == {0.25}
    fresh = {name for name, rate in found.items() if rate == 2.0}
    assert fresh == {f"detector.classification_head.output.{kind}" for kind in ("weight", "bias")}  # of three classes


def test_without_a_file_all_beside_the_encoder_is_fresh():
    assert {rate for name, rate in rates(None).items() if name.startswith("detector.")} == {2.0}
