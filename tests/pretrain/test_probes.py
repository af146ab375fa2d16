"""What `Probes` refuses before a run begins."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from medpretrain3d.backbones import ResEnc
from medpretrain3d.errors import UserError
from medpretrain3d.objectives import MAE
from pretrain.module import PretrainModule
from pretrain.probes import Probes


def set_up(counts, num_val_cases=1):
    module = PretrainModule(MAE(ResEnc("XXS"), mask_block=(4, 4, 4)))
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(val_cases=[None] * num_val_cases))
    probes = Probes()
    cases = [SimpleNamespace(counts=of_case) for of_case in counts]
    probes.corpus = SimpleNamespace(name="organs", cases=lambda split: cases)
    probes.setup(SimpleNamespace(limit_val_batches=1.0), module, "fit")


@pytest.mark.parametrize("counts", [[], [[1, 2]], [[1, 0], [0, 0]], [[0, 0], [1, 0], [0, 0]], [[3, 1], [0, 0], [1, 1]]])
def test_a_store_without_objects_to_teach_and_to_ask_is_refused_before_training(counts):
    with pytest.raises(UserError, match=r"Probes: organs: . cases with objects to teach and . to ask"):
        set_up(counts)


def test_cases_with_objects_in_both_halves_do():
    set_up([[0, 0], [0, 0], [1, 0], [0, 1]])
    set_up([], num_val_cases=0)  # where nothing is measured
