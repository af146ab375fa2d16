"""The weights of the validation that scored highest, kept while a run goes on."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
from torch import Tensor

from finetune.module import FinetuneModule


class BestWeights(L.Callback):
    """Keeps the weights with which a validation scored highest, of equal ones the first, where a run ends with them.

    They are part of the run's checkpoints, so an interrupted run goes on with those it had. Has to come behind a
    callback that puts averaged weights in the place of the others for a validation, so that those are kept that were
    measured.
    """

    def __init__(self) -> None:
        self.score = -math.inf
        """Of the kept weights by the primary metric of the protocol; minus infinity before the first validation."""
        self.step = 0
        """Optimizer steps that led to them."""
        self._weights: dict[str, Tensor] = {}
        self._measured: dict[str, Tensor] = {}

    def on_validation_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Copy the weights while they are those that validate."""
        assert isinstance(module, FinetuneModule)
        if module.weights != "best":
            return
        self._measured = {name: value.detach().cpu().clone() for name, value in module.detector.state_dict().items()}

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Keep them if they scored higher; the score is the same on every process."""
        if not self._measured or trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        assert isinstance(module, FinetuneModule)
        score = float(trainer.callback_metrics[f"val/{module.scored_by.primary}"])
        if score > self.score:
            self.score, self.step, self._weights = score, trainer.global_step, self._measured
        self._measured = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the weights, their score and step."""
        return {"score": self.score, "step": self.step, "weights": self._weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self.score, self.step, self._weights = state_dict["score"], state_dict["step"], state_dict["weights"]

    def put_into(self, module: FinetuneModule) -> bool:
        """Give a detector the kept weights; False where no validation has taken place, so that there are none."""
        if self._weights:
            module.detector.load_state_dict(self._weights)
        return bool(self._weights)
