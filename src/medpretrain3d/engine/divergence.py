"""Ends a run that has diverged, rather than let it train on with what is not a number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from medpretrain3d.engine.checkpoint_files import LAST
from medpretrain3d.engine.distributed import is_read
from medpretrain3d.errors import UserError
from medpretrain3d.processes import largest

WATCHED = ("the loss", "the norm of the gradients", "the norm of the weights")
MIN_SCALE = 2.0**-14
"""Of a loss in half precision: it starts at 2^16 and is halved where gradients overflow, a few times in a sane run."""
_NEVER = -(2**62)


class Divergence(L.Callback):
    """Ends the run, with an error, at the first step whose loss, gradients or new weights have no finite norm.

    What is found is noted on the device and asked for at every step on the CPU, and where waiting for a GPU would cost,
    at steps that are logged and before each validation. All processes ask together, so all end together. With a scaled
    loss (16-mixed) gradients may overflow, and the scaler leaves such steps out: there its collapse is what ends a run.
    A norm overflows from about 1e19 on, before the numbers themselves do. Weights that are not finite are not written:
    `CheckpointFiles`, encoder file and bundle refuse them.

    Args:
        folder: of the run's checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._first: Tensor | None = None  # minus the first step at which each of WATCHED was not finite

    def on_before_backward(self, trainer: L.Trainer, module: L.LightningModule, loss: Tensor) -> None:
        """Note the loss of a batch."""
        self._note(trainer.global_step + 1, 0, loss)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Note and log the norm of all gradients, averaged over processes and not yet clipped."""
        is_scaled = _scaler(trainer) is not None
        if is_scaled and getattr(optimizer, "_step_supports_amp_scaling", False):
            return  # it takes the scale out in its own kernel, so gradients still have it
        parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = _whole(torch.nn.utils.get_total_norm(gradients))
        if not is_scaled:
            self._note(trainer.global_step + 1, 1, norm)
        module.log("train/grad_norm", norm)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the norm of the weights, and ask."""
        step = trainer.global_step
        self._note(step, 2, torch.nn.utils.get_total_norm([weight.detach() for weight in module.parameters()]))
        if is_read(trainer, module):
            self.check(trainer)

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Ask before a checkpoint is written and time is spent."""
        self.check(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Ask before the last checkpoint is written."""
        self.check(trainer)

    def check(self, trainer: L.Trainer) -> None:
        """End the run if anything was not finite; every process calls this.

        Raises:
            UserError: it has diverged.
        """
        if self._first is None:
            return
        first = dict(zip(WATCHED, largest(self._first).tolist(), strict=True))
        found = max(first, key=lambda name: first[name])  # the loss, if all were at one step
        if first[found] > _NEVER:
            raise UserError(f"step {-first[found]}: {found} is not finite: the run has diverged; {self._advice}")
        scaler = _scaler(trainer)
        if scaler is not None and scaler.get_scale() < MIN_SCALE:
            raise UserError(
                f"step {trainer.global_step}: the scale of the loss fell to {scaler.get_scale():.1g}, since gradients "
                f"are not finite at any scale: the run has diverged; {self._advice}"
            )

    @property
    def _advice(self) -> str:
        last = (self.folder / LAST).resolve()
        cure = "lower model.optim.lr, warm up longer or set trainer.gradient_clip_val"
        if not last.is_file():
            return f"there is no checkpoint before it; {cure}"
        return f"the last good checkpoint is {last}; {cure}, in another run with model.init_from={last}"

    def _note(self, step: int, index: int, value: Tensor) -> None:
        value = _whole(value)
        if self._first is None:
            self._first = torch.full((len(WATCHED),), _NEVER, device=value.device)
        is_first = ~torch.isfinite(value.detach()) & (self._first[index] == _NEVER)
        self._first[index] = torch.where(is_first, -step, self._first[index])


def _whole(value: Tensor) -> Tensor:
    """Return a value of weights that are dealt out (DTensor), which all processes ask; any other as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _scaler(trainer: L.Trainer) -> Any:
    """Return the gradient scaler of half precision, None where the loss is not scaled."""
    return getattr(trainer.precision_plugin, "scaler", None)
