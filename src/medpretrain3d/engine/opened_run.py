"""The opening of a run: its folder is made, or what is in it is agreed with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from medpretrain3d.atomic import write_text
from medpretrain3d.engine.checkpoint_files import has_checkpoints
from medpretrain3d.engine.continuation import check_continuation
from medpretrain3d.engine.precision import precision_begun_with
from medpretrain3d.engine.restart import is_thrown_away, sitting_of_job
from medpretrain3d.engine.run import RunConfig, RunFile, is_finished, new_run_id
from medpretrain3d.engine.run_folder import claim_run
from medpretrain3d.engine.run_log import run_log
from medpretrain3d.precision.names import TrainingPrecision
from medpretrain3d.run_metadata import RunMetadata

Config = dict[str, Any]


def open_run(
    run: RunConfig,
    metadata: RunMetadata,
    text: str,
    config: Config,
    precision: TrainingPrecision,
    reread: Callable[[Path], Config],
) -> None:
    """Make a run's folder, or agree with what is in it; the first process calls this, and holds the folder's lock.

    Args:
        run: whose folder it is.
        metadata: of the run, as it begins.
        text: its configuration as it is written.
        config: the same as plain data.
        precision: of the run.
        reread: reads the configuration of an earlier sitting, with today's default of what was no option then.

    Raises:
        UserError: the folder is not of this program, or holds a run that cannot be continued.
    """
    path = run.folder / "config.yaml"
    claim_run(run.folder, metadata, is_thrown_away(run))
    if path.exists() and (is_finished(run.folder) or has_checkpoints(run.checkpoints)):
        before = _with_precision(reread(path), precision_begun_with(run))
        check_continuation(run, before, _with_precision(config, precision), metadata)
    write_text(path, text)
    run_log.open(run.folder)
    run_file = RunFile(run.folder)
    if run_file.read().run_id is None:
        run_file.update(RunMetadata(run_id=new_run_id(metadata, text), begun_in=sitting_of_job()))


def _with_precision(config: Config, precision: TrainingPrecision | None) -> Config:
    return {**config, "trainer": {**config["trainer"], "precision": precision}}
