"""What rests in a run has to have come from somewhere."""

from __future__ import annotations

import pytest

from medpretrain3d.backbones import ResEnc, read_encoder, save_encoder
from medpretrain3d.detection import FCOS
from medpretrain3d.engine.optimizer import OptimConfig
from medpretrain3d.errors import UserError
from medpretrain3d.objectives import MAE, DetectorPretraining
from pretrain.module import PretrainModule


def task(frozen_encoder: bool) -> DetectorPretraining:
    return DetectorPretraining(FCOS(ResEnc("XXS"), 1, fpn_channels=16), frozen_encoder=frozen_encoder)


def test_an_encoder_that_nothing_initialized_does_not_stay_as_it_is(tmp_path):
    with pytest.raises(UserError, match=r"got frozen_encoder and no model\.init_from.*or frozen_encoder to false"):
        PretrainModule(task(frozen_encoder=True))
    PretrainModule(task(frozen_encoder=False))
    save_encoder(tmp_path / "encoder", ResEnc("XXS"), {})
    module = PretrainModule(task(frozen_encoder=True), init_from=str(tmp_path / "encoder"))
    assert module.encoder is not None
    assert module.encoder.sha256 == read_encoder(tmp_path / "encoder").sha256


def test_groups_that_rest_at_random_are_said(capsys):
    PretrainModule(MAE(ResEnc("XXS"), mask_block=(4, 4, 4)), OptimConfig(frozen_groups=1))
    assert "warning: optim.frozen_groups 1: no model.init_from" in capsys.readouterr().out
    PretrainModule(MAE(ResEnc("XXS"), mask_block=(4, 4, 4)))
    assert "frozen_groups" not in capsys.readouterr().out
