"""When what is not finite ends a run, and when it does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medpretrain3d.engine.divergence import Divergence
from medpretrain3d.errors import UserError


class Scaler:
    scale = 65536.0

    def get_scale(self) -> float:
        return self.scale


@pytest.fixture
def trainer() -> Any:
    return SimpleNamespace(global_step=6, log_every_n_steps=10, precision_plugin=SimpleNamespace(scaler=None))


def stepped(watch: Divergence, trainer: Any, loss: float = 1.0, gradient: float = 1.0, device: str = "cpu") -> None:
    module: Any = torch.nn.Linear(2, 1)
    module.device = torch.device(device)
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    watch.on_before_backward(trainer, module, torch.tensor(loss))
    watch.on_before_optimizer_step(trainer, module, torch.optim.SGD(module.parameters()))
    trainer.global_step += 1
    watch.on_train_batch_end(trainer, module, None, None, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_loss_and_gradients_are_watched_at_every_step_on_the_cpu(value, trainer, tmp_path):
    watch = Divergence(tmp_path)
    stepped(watch, trainer)
    with pytest.raises(UserError, match="step 8: the loss is not finite"):
        stepped(watch, trainer, loss=value)
    with pytest.raises(UserError, match="step 9: the norm of the gradients is not finite"):
        stepped(Divergence(tmp_path), trainer, gradient=value)


def test_a_gpu_is_asked_at_logged_steps_and_before_a_validation_and_remembers_the_step(trainer, tmp_path):
    watch = Divergence(tmp_path)
    stepped(watch, trainer, loss=float("nan"), device="cuda")  # the device that it says, not where numbers are
    stepped(watch, trainer, gradient=float("inf"), device="cuda")
    with pytest.raises(UserError, match="step 7: the loss"):
        watch.on_validation_start(trainer, torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="step 7: the loss"):
        watch.on_train_epoch_end(trainer, torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    stepped(watch, trainer, device="cuda")
    with pytest.raises(UserError, match="step 7: the loss"):
        stepped(watch, trainer, device="cuda")  # step 10


def test_gradients_may_overflow_where_the_loss_is_scaled_until_the_scale_collapses(trainer, tmp_path):
    trainer.precision_plugin.scaler = Scaler()
    watch = Divergence(tmp_path)
    stepped(watch, trainer, gradient=float("inf"))
    trainer.precision_plugin.scaler.scale = 2.0**-15
    with pytest.raises(UserError, match="step 8: the scale of the loss fell to 3e-05"):
        stepped(watch, trainer, gradient=float("inf"))
    trainer.precision_plugin.scaler.scale = 1.0
    with pytest.raises(UserError, match="step 9: the loss is not finite"):
        stepped(watch, trainer, loss=float("inf"))
