"""The end of a pretraining run: the encoder file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L

from medpretrain3d import __version__
from medpretrain3d.backbones.checkpoints.encoder_file import write_encoder
from medpretrain3d.configurable import to_config
from medpretrain3d.engine.run import RunConfig, RunFile, git_sha
from medpretrain3d.engine.run_log import run_log
from medpretrain3d.engine.tracked_run import tracked_runs
from medpretrain3d.run_metadata import RunMetadata
from pretrain.datamodule import PretrainData
from pretrain.module import PretrainModule


@dataclass(frozen=True)
class EncoderOfRun:
    """The encoder of a run as it is now, at its end or on its way."""

    trainer: L.Trainer
    module: PretrainModule
    data: PretrainData
    """What it was trained on."""
    run: RunConfig
    """Where the run belongs."""
    run_file: RunFile
    """Its `run.json`."""
    config: str
    """The whole configuration as text."""
    costs: RunMetadata
    """Hours and arithmetic so far, as `ComputeMeter` gives them."""

    def write(self, folder: Path, weights: dict[str, Any]) -> str:
        """Write the encoder file, with neck and heads where the objective trains a whole detector.

        Args:
            folder: where it goes.
            weights: of the objective, whole.

        Returns:
            The sha256 of the weights file.
        """
        trainer, data, card = self.trainer, self.data, self.module.card()
        card["pretraining"] |= {
            "run": f"{self.run.group}/{self.run.name}",
            "steps": trainer.global_step,
            "global_batch_size": data.batch_size * trainer.world_size * trainer.accumulate_grad_batches,
            "minutes": self.run_file.minutes,
            **self.costs.known(),
        }
        card |= {"git_commit": git_sha(), "medpretrain3d": __version__, "config": self.config}
        prefix = self.module.objective.encoder_prefix
        own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        architecture, detector = to_config(self.module.objective.encoder), self.module.detector_part(weights)
        return write_encoder(folder, architecture, own, card, detector=detector)


def finalize(made: EncoderOfRun) -> None:
    """Write `encoder/` into the run's folder and say in `run.json` that the run is finished; the first process does.

    Args:
        made: of a trainer that has just finished fitting, whose module has the final weights.
    """
    if not made.trainer.is_global_zero:
        return
    run, module, folder = made.run, made.module, made.run.folder / "encoder"
    sha256 = made.write(folder, module.objective.state_dict())
    own = RunMetadata(finished=True, steps=made.trainer.global_step, checkpoint_sha256=sha256)
    made.run_file.update(module.metadata() | made.data.metadata() | made.costs | own)
    run_log.say(f"encoder file: {folder}")
    pretraining = {**module.card()["pretraining"], "run": f"{run.group}/{run.name}"}
    about = {key: pretraining[key] for key in ("run", "paradigm", "method", "corpus") if key in pretraining}
    for tracked in tracked_runs(made.trainer):
        tracked.keep_weights("encoder", sha256, folder, about)
