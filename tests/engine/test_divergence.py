"""When what is not finite ends a run, and when it does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

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
    module.log = lambda name, value: None
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


class Slope(L.LightningModule):
    """A weight whose gradient is twice the mean of the batch, added up over the batches of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(4))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return 2 * batch.mean() * self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def test_the_norm_of_the_gradients_of_a_whole_step_is_logged_before_it_is_clipped(tmp_path):
    batches = torch.utils.data.DataLoader(torch.tensor([1.0, 3.0, 5.0, 9.0]), batch_size=1)  # type: ignore[arg-type]
    trainer = L.Trainer(
        max_steps=2, accumulate_grad_batches=2, gradient_clip_val=0.5, callbacks=[Divergence(tmp_path)],
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(Slope(), batches)
    # of the second step: the mean of the gradients 10 and 18, four times
    assert trainer.callback_metrics["train/grad_norm"].item() == pytest.approx(2 * 14.0)


def test_gradients_that_still_have_the_scale_of_the_loss_are_not_logged(trainer, tmp_path):
    trainer.precision_plugin.scaler = Scaler()
    module: Any = torch.nn.Linear(2, 1, bias=False)
    module.weight.grad = torch.tensor([[3.0, 4.0]])
    logged: list[tuple[str, float]] = []
    module.log = lambda name, value: logged.append((name, value.item()))
    optimizer = torch.optim.SGD(module.parameters())
    Divergence(tmp_path).on_before_optimizer_step(trainer, module, optimizer)
    optimizer._step_supports_amp_scaling = True  # as those whose kernel unscales
    Divergence(tmp_path).on_before_optimizer_step(trainer, module, optimizer)
    assert logged == [("train/grad_norm", 5.0)]
