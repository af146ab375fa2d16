"""The part of a training step that learns from scans without labels: method, teacher, weight, and what is said."""

from __future__ import annotations

from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor

from finetune.datamodule import FinetuneData
from medpretrain3d.boxes import Targets
from medpretrain3d.configurable import to_config
from medpretrain3d.detection.dense import DenseDetector
from medpretrain3d.engine.distributed import numbers_to_log, rank_zero_print
from medpretrain3d.errors import UserError
from medpretrain3d.loading.unlabeled_crops import UnlabeledBatch
from medpretrain3d.processes import total
from medpretrain3d.semi_supervised import SemiSupervised
from medpretrain3d.store.left_right import mirrored_sides


class Term(NamedTuple):
    """What a step adds to the loss of the labeled crops, and to the curves."""

    loss: Tensor | None
    """None where nothing is added."""
    logs: dict[str, Tensor]


class UnlabeledTerm(L.Callback):
    """Asks a method what a step learns from unlabeled crops, with the moving average of the weights as the teacher.

    As a callback it says at each validation and at the end what was counted since, 0 as well.

    Args:
        method: how it is learned.
        student: the detector that is trained.
    """

    def __init__(self, method: SemiSupervised, student: DenseDetector) -> None:
        self.method = method
        self.student = student
        self._since = 0
        self._num_crops = 0
        self._counts: dict[str, Tensor] = {}

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Look whether there are scans and a teacher, before any time is spent.

        Raises:
            UserError: no scans without labels, no moving average of the weights, or crops that the method cannot use.
        """
        if stage != "fit":
            return
        data: FinetuneData = trainer.datamodule  # type: ignore[attr-defined]  # set when fitting starts
        if data.unlabeled is None:
            raise UserError(f"{self.method.option}: there are no scans without labels; name a store in data.unlabeled")
        if _average(trainer) is None:
            raise UserError(
                f"{self.method.option}: the teacher is the moving average of the weights, and the recipe keeps none; "
                "add {class_path: EMAWeightAveraging, init_args: {decay: 0.99}} to trainer.callbacks"
            )
        self.method.check_patch(self.student, data.patch)
        if exchanged := mirrored_sides(data.classes, self.method.mirror_axes):
            rank_zero_print(f"warning: model.semi_supervised: {exchanged}")

    def __call__(
        self, module: L.LightningModule, image: Tensor, targets: list[Targets], unlabeled: UnlabeledBatch
    ) -> Term:
        """Compute what a step adds; nothing where the method's weight is 0, and counts of 0 before its burn-in is over.

        Args:
            module: that steps.
            image: (B, C, D, H, W), the labeled crops.
            targets: what is in them.
            unlabeled: the others.
        """
        if not self.method.weight:
            return Term(None, {})
        trainer = module.trainer
        weight = self.method.weight_at(trainer.global_step, trainer.max_steps)
        loss: Tensor | None = None
        logs: dict[str, Tensor] = {}
        counts = dict.fromkeys(self.method.counted, torch.zeros((), device=image.device))
        if weight:
            found = self.method.losses(self.student, self._teacher(trainer), image, targets, unlabeled)
            loss = weight * torch.stack(list(found.losses.values())).sum()
            logs = {f"unlabeled_{name}": value for name, value in found.losses.items()}
            counts = {name: _on_device(count, image.device) for name, count in found.counts.items()}
        for name, count in counts.items():
            self._counts[name] = self._counts[name] + count if name in self._counts else count
        self._num_crops += len(unlabeled.seeds)
        logs |= numbers_to_log(module, {"unlabeled_weight": weight})
        # The sum over processes and accumulated batches, of what is averaged over them when it is logged.
        num_batches = trainer.world_size * trainer.accumulate_grad_batches
        return Term(loss, logs | {name: count * num_batches for name, count in counts.items()})

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Count from the step on with which this sitting begins."""
        self._begin(trainer)

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Say what was counted since the last one."""
        self._say(trainer)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Say what was counted since the last validation."""
        self._say(trainer)

    def _begin(self, trainer: L.Trainer) -> None:
        self._since, self._num_crops, self._counts = trainer.global_step, 0, {}

    def _say(self, trainer: L.Trainer) -> None:
        if not self._num_crops:  # on every process
            return
        words = self.method.counted
        counted = [f"{int(total(count)):,} {words.get(name, name)}" for name, count in self._counts.items()]
        rank_zero_print(
            f"steps {self._since:,} to {trainer.global_step:,}: {', '.join(counted)} in "
            f"{self._num_crops * trainer.world_size:,} unlabeled crops"
        )
        self._begin(trainer)

    def _teacher(self, trainer: L.Trainer) -> DenseDetector:
        average = _average(trainer)
        assert average is not None, "looked for in setup"
        assert average._average_model is not None, "made when fitting starts"
        teacher = average._average_model.module.detector
        assert isinstance(teacher, DenseDetector), "of the same module as the student"
        return teacher.eval()


def unlabeled_provenance(term: UnlabeledTerm | None, data: FinetuneData) -> dict[str, Any]:
    """Return under `unlabeled`, for files that a run makes, which scans it saw without labels and how; else nothing."""
    if term is None or data.unlabeled is None:
        return {}
    return {"unlabeled": {**data.unlabeled.provenance(), "method": to_config(term.method)}}


def _average(trainer: L.Trainer) -> EMAWeightAveraging | None:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # a list of them
    return next((one for one in callbacks if isinstance(one, EMAWeightAveraging)), None)


def _on_device(count: float | Tensor, device: torch.device) -> Tensor:
    return torch.as_tensor(count, dtype=torch.float32).to(device, non_blocking=True)
