"""A run at MLflow: curves, options, facts, tables and pictures, in a database beside the runs or at a server."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from lightning.fabric.utilities.logger import _flatten_dict
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray

from medpretrain3d.documents import json_text
from medpretrain3d.engine.results_board import Chart, ResultsBoard, Table
from medpretrain3d.engine.run import RunConfig
from medpretrain3d.engine.run_log import run_log
from medpretrain3d.engine.tracked_run import TrackedRun
from medpretrain3d.errors import UserError
from medpretrain3d.run_metadata import RunMetadata
from medpretrain3d.visualization.pictures import save_png

RUN_ID = "medpretrain3d.run_id"
"""Tag by which a run that is continued finds itself."""
SERVED = "mlflow-artifacts"
"""Scheme of files whose place the server knows alone."""
DESTINATION, DESTINATION_FOLDER = "MLFLOW_ARTIFACTS_DESTINATION", "mlartifacts"
"""Where a server on the database finds the files: the variable, or this folder beside it."""
LOGGED = "mlflow.loggedArtifacts"
"""Tag by which MLflow's pages know which files are tables."""
RETRIES = "3"
"""Of a call to a server, within a quarter of a minute; MLflow's own 7 take four, in which a training stands still."""
PAUSE = 50
"""Times as long as a failed call took until the next is tried: a lost server takes a fiftieth of a training's time."""
_NO_NAME = re.compile(r"[^\w/. -]")


class MlflowRun(TrackedRun, MLFlowLogger):
    """Lightning's logger on a run that says nothing of user, machine or command line.

    Args:
        run: where the run belongs.
        metadata: of the run.
        config: every option of the run.
        samples_per_step: of the optimizer, over all processes.

    Raises:
        UserError: MLflow is not installed, or its server or database takes no run.
    """

    title = "MLflow"

    def __init__(
        self, run: RunConfig, metadata: RunMetadata, config: Mapping[str, Any], samples_per_step: int | None
    ) -> None:
        # It would report its use to its makers.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", RETRIES)
        try:
            import sqlalchemy  # noqa: F401  is it there?
            from mlflow.exceptions import MlflowException
        except ImportError as error:
            raise UserError('run.mlflow: install it with pip install "medpretrain3d[mlflow]"') from error
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table of a new database
        place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(run.root) / 'mlflow.db'}"
        Path(run.root).mkdir(parents=True, exist_ok=True)
        self.samples_per_step = samples_per_step
        self._destination = os.environ.get(DESTINATION) or (Path(run.root) / DESTINATION_FOLDER).absolute().as_uri()
        try:
            super().__init__(os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.group, tracking_uri=place)
            self._open(run, metadata, config)
        except (MlflowException, OSError) as error:
            why = " ".join(str(error).split())[:300]
            raise UserError(
                f"run.mlflow: no run can be begun at {place} ({why}); set MLFLOW_TRACKING_URI to a server or database "
                "that answers, or leave run.mlflow out"
            ) from error

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
        named = {_NO_NAME.sub("_", name): value for name, value in metrics.items()}
        self._send(lambda: super(MlflowRun, self).log_metrics(named, step))

    def _send(self, send: Callable[[], object]) -> None:
        from mlflow.exceptions import MlflowException

        self.attempt(send, (MlflowException, OSError), PAUSE)

    @rank_zero_only
    def show(self, board: ResultsBoard, step: int) -> None:
        """Show the numbers, and keep tables, curves and pictures as files."""
        self._log({f"test/{name}": value for name, value in board.summary.items()}, step)
        tables = {**board.tables, **{name: _table(chart) for name, chart in board.charts.items()}}
        with TemporaryDirectory() as folder:
            for name, table in tables.items():
                document = {"columns": list(table.columns), "data": [list(row) for row in table.rows]}
                (Path(folder) / f"{name}.json").write_text(json_text(document), encoding="utf-8")
            for place, picture in enumerate(board.pictures.values()):
                save_png(Path(folder) / f"boxes_{place}.png", picture)
            is_kept = self._keep(Path(folder), "test")
        if is_kept:
            entries = [{"path": f"test/{name}.json", "type": "table"} for name in tables]
            client: Any = self._mlflow_client
            self._send(lambda: client.set_tag(self._run_id, LOGGED, json_text(entries).strip()))

    @rank_zero_only
    def show_picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Keep a picture as a file of this step."""
        place, _, stem = name.rpartition("/")
        with TemporaryDirectory() as folder:
            save_png(Path(folder) / f"{stem}_{step + 1:07d}.png", picture)
            self._keep(Path(folder), place)

    def _keep(self, folder: Path, place: str) -> bool:
        """Hand files to MLflow; a server that takes none ends no run."""
        from mlflow.exceptions import MlflowException
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        client: Any = self._mlflow_client
        if time.monotonic() < self.silent_until:
            return False
        try:
            scheme, _, path = client.get_run(self._run_id).info.artifact_uri.partition(":")
            if scheme == SERVED and not str(self._tracking_uri).startswith("http"):
                # No server is asked here: files go where one on this database looks for them.
                beside: Any = get_artifact_repository(f"{self._destination}/{path.strip('/')}")
                beside.log_artifacts(str(folder), place)
            else:
                client.log_artifacts(self._run_id, str(folder), place)
        except (MlflowException, OSError) as error:
            why = " ".join(str(error).split())[:300]
            run_log.say(f"MLflow: tables and pictures ({place}) are not kept there: {why}")
            return False
        return True

    def conclude(self, metadata: RunMetadata) -> None:
        """Add what is known at the end."""
        self.silent_until = 0.0
        self._send(lambda: self._tag(metadata))
        self.finalize("finished")

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Say how the run ended."""
        self._send(lambda: super(MlflowRun, self).finalize(status))


def _table(chart: Chart) -> Table:
    """Return a row per point of a chart."""
    rows = [(name, x, y) for name, points in chart.lines.items() for x, y in points]
    return Table(("line", chart.x_name, chart.title), rows)
