"""Lengths in mm of a detector that is pretrained."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from medpretrain3d.backbones import ResEnc
from medpretrain3d.detection import HeatMap
from medpretrain3d.errors import UserError
from medpretrain3d.loading.object_view import ObjectView
from medpretrain3d.objectives import DetectorPretraining
from pretrain.module import PretrainModule


def test_a_detector_that_measures_by_another_spacing_than_the_data_is_refused():
    module = PretrainModule(DetectorPretraining(HeatMap(ResEnc("XXS"), 1, spacing_mm=(3.0, 1.0, 1.0), fpn_channels=16)))
    data = SimpleNamespace(views=ObjectView(), patch=(16, 16, 16), corpus=SimpleNamespace(spacing_mm=(3.0, 1.0, 1.0)))
    module._trainer = SimpleNamespace(datamodule=data)
    module.setup("fit")
    data.corpus.spacing_mm = (2.0, 2.0, 2.0)
    with pytest.raises(UserError, match=r"set detector\.spacing_mm to \[2.0, 2.0, 2.0\]"):
        module.setup("fit")
