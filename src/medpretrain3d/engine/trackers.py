"""Who is told of a run beside `metrics.csv`, which always holds all of it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from medpretrain3d.backbones.checkpoints.publishing import CONFIG, without_places
from medpretrain3d.engine.checkpoint_files import num_steps_done
from medpretrain3d.engine.run import RunConfig
from medpretrain3d.engine.tracked_run import TrackedRun
from medpretrain3d.engine.tracking import sweep_run_id, wandb_logger, wandb_mode
from medpretrain3d.run_metadata import RunMetadata


def names_in_sweep() -> dict[str, str]:
    """Return `name` and `group` of a run that an agent of a wandb sweep starts, which says who it is in variables."""
    run = sweep_run_id()
    return {"name": run, "group": f"sweep_{os.environ['WANDB_SWEEP_ID'].strip()}"} if run else {}


def tracker_names(run: RunConfig, typed: Collection[str]) -> list[str]:
    """Return what `trackers` would open, in words."""
    mode = wandb_mode(run.wandb, "wandb" in typed)
    named = {f"wandb, {mode}": mode != "disabled", "TensorBoard": run.tensorboard, "MLflow": run.mlflow}
    return [name for name, is_on in named.items() if is_on]


def trackers(
    run: RunConfig,
    job_type: str,
    metadata: RunMetadata,
    typed: Collection[str],
    config: Mapping[str, Any],
    samples_per_step: int,
) -> list[TrackedRun]:
    """Open the trackers of a run; the first process does.

    None of them is told of host, user, places on this machine or the command line, unless `run.share_machine` is true.

    Args:
        run: where the run belongs, and which trackers it has.
        job_type: `pretrain` or `finetune`.
        metadata: of the run.
        typed: fields of `run` that the command line names.
        config: every option of the run, as plain data.
        samples_per_step: of the optimizer, over all processes.

    Raises:
        UserError: a tracker is not installed.
    """
    told: dict[str, Any] = dict(config) if run.share_machine else _without_machine(config)
    metadata = metadata | RunMetadata(arm=metadata.arm or metadata.method)
    opened: list[TrackedRun] = []
    if run.tensorboard:
        from medpretrain3d.engine.tensorboard_run import TensorBoardRun

        step = num_steps_done(run.checkpoints)
        opened.append(TensorBoardRun(run.folder, told, samples_per_step, step, run.share_machine))
    if run.mlflow:
        from medpretrain3d.engine.mlflow_run import MlflowRun

        opened.append(MlflowRun(run, metadata, told, samples_per_step))
    tracked = wandb_logger(run, run.folder, job_type, metadata, typed, told, samples_per_step)
    return opened if tracked is None else [*opened, tracked]


def _without_machine(config: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = without_places({CONFIG: config})[CONFIG]
    told.get("run", {}).pop("root", None)  # its last name may be that of a user
    return told
