"""Patches that network or task do not divide."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from medpretrain3d.backbones import ResEnc
from medpretrain3d.errors import UserError
from medpretrain3d.loading.views import OneView
from medpretrain3d.objectives import MAE
from pretrain.module import PretrainModule


@pytest.mark.parametrize(
    ("block", "edge", "message"),
    [
        (
            (12, 12, 12),
            20,
            r"D is 20, must be a multiple of the common multiple of .* \(8, 8, 8\) and the mask_block, 24; use 24",
        ),
        ((4, 4, 4), 12, r"D is 12, must be a multiple of the coarsest stride 8; use 8 or 16"),
    ],
)
def test_a_patch_is_refused_by_what_does_not_divide_it(block, edge, message):
    module = PretrainModule(MAE(ResEnc("XXS"), mask_block=block))
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(views=OneView(), patch=(edge, 24, 24)))
    with pytest.raises(UserError, match=message):
        module.setup("fit")
    module._trainer.datamodule.patch = (24, 24, 48)
    module.setup("fit")
