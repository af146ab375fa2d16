from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, LearningRateMonitor
from torch import nn
from torch.optim.swa_utils import AveragedModel

from medpretrain3d.engine.weight_averaging import average_in_one_call


class Module(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def averaged(in_one_call: bool) -> tuple[EMAWeightAveraging, AveragedModel]:
    """The average of weights that are 0, 1, 2, ... after each step, times what they began with."""
    torch.manual_seed(0)
    module, callback = Module(), EMAWeightAveraging(decay=0.9)
    if in_one_call:
        average_in_one_call([LearningRateMonitor(), callback])
    trainer: Any = SimpleNamespace(global_step=0)
    callback.setup(trainer, module, "fit")
    begin = {name: value.clone() for name, value in module.state_dict().items()}
    for step in range(1, 5):
        module.load_state_dict({name: step * value for name, value in begin.items()})
        trainer.global_step = step
        callback.on_train_batch_end(trainer, module, None, None, step - 1)
    assert callback._average_model is not None
    return callback, callback._average_model


def test_the_average_is_lightnings():
    (_, ours), (_, theirs) = averaged(in_one_call=True), averaged(in_one_call=False)
    assert ours.avg_fn is None
    assert ours.multi_avg_fn is not None
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_the_average_after_two_steps_by_hand():
    module, callback = Module(), EMAWeightAveraging(decay=0.75)
    average_in_one_call([callback])
    trainer: Any = SimpleNamespace(global_step=0)
    callback.setup(trainer, module, "fit")
    for step, value in enumerate((1.0, 5.0, 9.0), start=1):
        nn.init.constant_(module.net[0].weight, value)
        trainer.global_step = step
        callback.on_train_batch_end(trainer, module, None, None, 0)
    assert callback._average_model is not None
    weight = callback._average_model.module.net[0].weight
    torch.testing.assert_close(weight, torch.full_like(weight, 0.75 * (0.75 * 1 + 0.25 * 5) + 0.25 * 9))
