"""A run at MLflow: curves, options and facts, in a database beside the runs or at a server."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.logger import _flatten_dict
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from medpretrain3d.engine.results_board import ResultsBoard
from medpretrain3d.engine.run import RunConfig
from medpretrain3d.engine.tracked_run import TrackedRun
from medpretrain3d.errors import UserError
from medpretrain3d.run_metadata import RunMetadata

RUN_ID = "medpretrain3d.run_id"
"""Tag by which a run that is continued finds itself."""
_NO_NAME = re.compile(r"[^\w/. -]")


class MlflowRun(TrackedRun, MLFlowLogger):
    """Lightning's logger on a run that says nothing of user, machine or command line.

    Args:
        run: where the run belongs.
        metadata: of the run.
        config: every option of the run.
        samples_per_step: of the optimizer, over all processes.

    Raises:
        UserError: MLflow is not installed.
    """

    def __init__(
        self, run: RunConfig, metadata: RunMetadata, config: Mapping[str, Any], samples_per_step: int | None
    ) -> None:
        # It would report its use to its makers.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            import mlflow  # noqa: F401  is it there?
            import sqlalchemy  # noqa: F401  as above
        except ImportError as error:
            raise UserError('run.mlflow: install it with pip install "medpretrain3d[mlflow]"') from error
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table of a new database
        place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(run.root) / 'mlflow.db'}"
        Path(run.root).mkdir(parents=True, exist_ok=True)
        super().__init__(os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.group, tracking_uri=place)
        self.samples_per_step = samples_per_step
        self._open(run, metadata, config)

    def _open(self, run: RunConfig, metadata: RunMetadata, config: Mapping[str, Any]) -> None:
        client: Any = self._mlflow_client
        known = client.get_experiment_by_name(self._experiment_name)
        # The default would be a path of this machine.
        experiment = (
            known.experiment_id if known else client.create_experiment(self._experiment_name, "mlflow-artifacts:/")
        )
        found = client.search_runs([experiment], f"tags.`{RUN_ID}` = '{metadata.run_id}'") if metadata.run_id else []
        if found:
            self._run_id = found[0].info.run_id
            client.update_run(self._run_id, status="RUNNING")
        else:
            # Lightning would have MLflow add user, command and repository.
            tags = {"mlflow.runName": run.name, "mlflow.user": "redacted", RUN_ID: metadata.run_id or ""}
            self._run_id = client.create_run(experiment, tags=tags).info.run_id
            self.log_hyperparams(_flatten_dict(dict(config), delimiter="."))
        self._tag(metadata)

    def _tag(self, metadata: RunMetadata) -> None:
        client: Any = self._mlflow_client
        for name, value in metadata.known().items():
            client.set_tag(self._run_id, name, value)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add points to the curves."""
        self._log(self.with_samples(metrics, step), step)

    def _log(self, metrics: Mapping[str, Any], step: int | None) -> None:
        super().log_metrics({_NO_NAME.sub("_", name): value for name, value in metrics.items()}, step)

    def show(self, board: ResultsBoard, step: int) -> None:
        """Show the numbers."""
        self._log({f"test/{name}": value for name, value in board.summary.items()}, step)

    def conclude(self, metadata: RunMetadata) -> None:
        """Add what is known at the end."""
        self._tag(metadata)
        self.finalize("finished")
