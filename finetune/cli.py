"""The program of stage 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities import rank_zero_warn

from finetune.best_weights import BestWeights
from finetune.datamodule import FinetuneData
from finetune.final_weights import choose_weights, last_weights
from finetune.finalize import finalize, write_bundle
from finetune.module import FinetuneModule
from finetune.preprocessing import follow_pretraining
from finetune.validation_detections import KeepRawDetections
from medpretrain3d.backbones import Backbone
from medpretrain3d.engine.distributed import rank_zero_print
from medpretrain3d.engine.stage_cli import StageCLI
from medpretrain3d.errors import UserError


class FinetuneCLI(StageCLI):
    """Stage 2 from the command line."""

    def resolve(self, config: Namespace, is_said: bool) -> None:
        """Take from the encoder's file what the recipe leaves to it."""
        follow_pretraining(config, *((rank_zero_print, rank_zero_warn) if is_said else (_quiet, _quiet)))

    def backbone(self) -> Backbone:
        """Return the detector's."""
        result: Backbone = self.model.detector.backbone
        return result

    def callbacks(self) -> list[L.Callback]:
        """Add what keeps the detections of the validations, and the best weights."""
        self.best_weights = BestWeights()
        return [*super().callbacks(), KeepRawDetections(self.run.raw_detections), self.best_weights]

    def write_product(self, trainer: L.Trainer, folder: Path, state: dict[str, Any]) -> None:
        """Write the bundle."""
        weights = last_weights(trainer)
        write_bundle(folder, trainer, self.model, self.datamodule, self.run, self.config_text(), weights)

    def fit(self, **kwargs: Any) -> None:
        """Train, then write the bundle and test it on the test split."""
        launcher = self.trainer.strategy.launcher
        if isinstance(launcher, _MultiProcessingLauncher):
            raise UserError(
                "trainer.strategy: got one whose processes end with the training (ddp_fork, ddp_spawn, ddp_notebook), "
                "wanted one whose processes test as well; use ddp"
            )
        super().fit(**kwargs)
        weights = choose_weights(self.trainer, self.model, self.best_weights)
        config = self.config_text()
        finalize(self.trainer, self.model, self.datamodule, self.run, self.run_file, config, self.compute, weights)
        self.conclude()
        self.say_end()


def _quiet(text: str) -> None:
    """Say nothing."""


def train(args: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    FinetuneCLI(FinetuneModule, FinetuneData, job_type="finetune", args=args)
