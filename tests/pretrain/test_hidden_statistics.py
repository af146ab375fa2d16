"""Statistics of batch norms that were taken of crops with hidden voxels, as the card of a real run tells."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from medpretrain3d.backbones import Backbone, EncoderFile, SegResNet, load_encoder
from medpretrain3d.configurable import to_config
from medpretrain3d.detection import FCOS
from medpretrain3d.objectives import (
    MAE,
    CaseClassification,
    ConsistentViews,
    DetectorPretraining,
    ModelsGenesis,
    Objective,
    SimCLR,
    SliceWise,
    SparK,
    SwinMultiTask,
)
from medpretrain3d.run_metadata import RunMetadata
from medpretrain3d.store.preprocessing import Preprocessing
from pretrain.module import PretrainModule

WARNING = "warning: these statistics are of crops with hidden voxels"


def backbone(freeze_statistics: bool = True) -> Backbone:
    return SegResNet(8, blocks=(1, 1), norm="batch", freeze_statistics=freeze_statistics)


def detector(beside: Objective | None = None) -> Objective:
    return DetectorPretraining(FCOS(backbone(), 1, first_level=0, fpn_channels=16, head_convs=1), beside=beside)


def of_run(objective: Objective) -> EncoderFile:
    """What a run of this objective hands on."""
    module = PretrainModule(objective)
    data = SimpleNamespace(
        seed=0, metadata=RunMetadata, preprocessing=lambda: Preprocessing((16, 16, 16)), train_cases=()
    )
    module._trainer = SimpleNamespace(datamodule=data)
    network = objective.encoder
    return EncoderFile(to_config(network), network.state_dict(), module.card(), "0" * 64)


@pytest.mark.parametrize(
    "objective",
    [
        MAE(backbone()),
        SliceWise(backbone()),
        SparK(backbone()),
        ConsistentViews(backbone(), projector_channels=(16, 8)),
        ModelsGenesis(backbone()),
        SwinMultiTask(backbone(), contrast_channels=8),
        detector(beside=MAE(backbone())),
    ],
    ids=lambda one: type(one).__name__,
)
def test_frozen_statistics_of_hidden_voxels_are_warned_of(objective):
    encoder = of_run(objective)
    assert WARNING in str(load_encoder(backbone(), encoder))
    assert WARNING not in str(load_encoder(backbone(freeze_statistics=False), encoder))


@pytest.mark.parametrize(
    "objective",
    [SimCLR(backbone(), projector_channels=(16, 8)), CaseClassification(backbone(), (("a", "b"),)), detector()],
    ids=lambda one: type(one).__name__,
)
def test_those_of_whole_crops_are_not(objective):
    report = str(load_encoder(backbone(), of_run(objective)))
    assert "batch norm keeps the file's statistics" in report
    assert WARNING not in report
