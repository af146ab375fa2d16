"""The program of stage 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.cli import LightningArgumentParser

from medpretrain3d.backbones import Backbone
from medpretrain3d.engine.stage_cli import StageCLI
from medpretrain3d.loading.case_labels import CaseLabelView as CaseLabelView  # what is imported has a short name
from medpretrain3d.loading.multi_crop import MultiCrop as MultiCrop  # the same
from medpretrain3d.loading.object_view import ObjectView as ObjectView  # the same
from pretrain.datamodule import PretrainData
from pretrain.finalize import EncoderOfRun, finalize
from pretrain.module import PretrainModule
from pretrain.previews import Previews
from pretrain.probes import Probes as Probes  # the same


class PretrainCLI(StageCLI):
    """Stage 1 from the command line."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the classes of a supervised objective to the labels of the data; the others do not ask."""
        super().add_arguments_to_parser(parser)
        parser.link_arguments("data.classes", "model.objective.init_args.classes", apply_on="instantiate")

    def callbacks(self) -> list[L.Callback]:
        """Return pictures while it trains."""
        return [*super().callbacks(), Previews(self.run.folder / "previews")]

    def backbone(self) -> Backbone:
        """Return the objective's."""
        result: Backbone = self.model.objective.backbone
        return result

    def has_static_shapes(self) -> bool:
        """Whether every batch of these views has the same shape."""
        return bool(self.datamodule.views.has_static_shapes)

    def write_product(self, trainer: L.Trainer, folder: Path, state: dict[str, Any]) -> None:
        """Write the encoder file."""
        prefix = "objective."
        weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        self._encoder_of_run(trainer).write(folder, weights)

    def fit(self, **kwargs: Any) -> None:
        """Train, then write the encoder file."""
        super().fit(**kwargs)
        finalize(self._encoder_of_run(self.trainer))
        self.conclude()
        self.say_end()

    def _encoder_of_run(self, trainer: L.Trainer) -> EncoderOfRun:
        config, costs = self.config_text(), self.compute.metadata(trainer)
        return EncoderOfRun(trainer, self.model, self.datamodule, self.run, self.run_file, config, costs)


def train(args: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    PretrainCLI(PretrainModule, PretrainData, job_type="pretrain", args=args)
