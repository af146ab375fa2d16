"""The end of a pretraining run: the encoder file."""

from __future__ import annotations

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


def finalize(
    trainer: L.Trainer,
    module: PretrainModule,
    data: PretrainData,
    run: RunConfig,
    run_file: RunFile,
    config: str,
    costs: RunMetadata,
) -> None:
    """Write `encoder/` into the run's folder and say in `run.json` that the run is finished; the first process does.

    Args:
        trainer: has just finished fitting.
        module: with the final weights.
        data: what it was trained on.
        run: where the run belongs.
        run_file: its `run.json`.
        config: the whole configuration as text.
        costs: hours and arithmetic of the run, as `ComputeMeter` gives them.
    """
    if not trainer.is_global_zero:
        return
    folder = run.folder / "encoder"
    weights = module.objective.backbone.state_dict()
    sha256 = write_encoder_file(folder, weights, trainer, module, data, run, run_file, config, costs)
    own = RunMetadata(finished=True, steps=trainer.global_step, checkpoint_sha256=sha256)
    run_file.update(module.metadata() | data.metadata() | costs | own)
    run_log.say(f"encoder file: {folder}")
    pretraining = {**module.card()["pretraining"], "run": f"{run.group}/{run.name}"}
    about = {key: pretraining[key] for key in ("run", "paradigm", "method", "corpus") if key in pretraining}
    for tracked in tracked_runs(trainer):
        tracked.keep_weights("encoder", sha256, folder, about)


def write_encoder_file(
    folder: Path,
    weights: dict[str, Any],
    trainer: L.Trainer,
    module: PretrainModule,
    data: PretrainData,
    run: RunConfig,
    run_file: RunFile,
    config: str,
    costs: RunMetadata,
) -> str:
    """Write the encoder as it is now, at the end of a run or on its way; see `finalize`.

    Returns:
        The sha256 of the weights file.
    """
    card = module.card()
    card["pretraining"] |= {
        "run": f"{run.group}/{run.name}",
        "steps": trainer.global_step,
        "global_batch_size": data.batch_size * trainer.world_size * trainer.accumulate_grad_batches,
        "minutes": run_file.minutes,
        **costs.known(),
    }
    card |= {"git_commit": git_sha(), "medpretrain3d": __version__, "config": config}
    return write_encoder(folder, to_config(module.objective.backbone), weights, card)
