"""A run as TensorBoard shows it: curves, pictures and options, in the run's folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from lightning.fabric.utilities.logger import _flatten_dict
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray

from medpretrain3d.engine.results_board import ResultsBoard
from medpretrain3d.engine.tracked_run import TrackedRun
from medpretrain3d.errors import UserError
from medpretrain3d.run_metadata import RunMetadata

FOLDER = "tensorboard"


class TensorBoardRun(TrackedRun, TensorBoardLogger):
    """Lightning's logger; a run that is continued hides what was logged after its checkpoint.

    Args:
        folder: of the run.
        config: every option of the run.
        samples_per_step: of the optimizer, over all processes.
        continued_from: step of the checkpoint that the run goes on from; 0 of one that begins.
        share_machine: whether the names of the files may hold the host's.

    Raises:
        UserError: TensorBoard is not installed.
    """

    title = "TensorBoard"

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        samples_per_step: int | None,
        continued_from: int,
        share_machine: bool,
    ) -> None:
        try:
            from tensorboard.summary.writer import event_file_writer
        except ImportError as error:
            raise UserError('run.tensorboard: install it with pip install "medpretrain3d[tensorboard]"') from error
        if not share_machine:  # the only thing that this module asks of it
            event_file_writer.socket = SimpleNamespace(gethostname=lambda: "host")
        super().__init__(
            str(folder), name="", version=FOLDER, default_hp_metric=False, purge_step=continued_from or None
        )
        self.samples_per_step = samples_per_step
        self._config = dict(config)
        self._summary: dict[str, float] = {}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add points to the curves."""

        def add() -> None:
            try:
                super(TensorBoardRun, self).log_metrics(self.with_samples(metrics, step), step)
            except ValueError as error:  # Lightning's, of whatever is wrong
                raise (error.__cause__ if isinstance(error.__cause__, OSError) else error) from error

        self._write(add)

    @rank_zero_only
    def save(self) -> None:
        """Write what is waiting; the options are in `config.yaml` already."""
        self._write(lambda: self.experiment.flush())

    def show_picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Show a picture."""
        self._write(lambda: self.experiment.add_image(name, picture, step, dataformats="HWC"))

    def show(self, board: ResultsBoard, step: int) -> None:
        """Show the numbers and the pictures."""
        self._summary = {f"test/{name}": value for name, value in board.summary.items()}
        for name, value in self._summary.items():
            self.log_metrics({name: value}, step)
        for place, picture in enumerate(board.pictures.values()):
            self.show_picture(f"test/boxes_{place}", picture, step)

    def conclude(self, metadata: RunMetadata) -> None:
        """Write options and facts beside the test's numbers, for its table of hyper-parameters."""
        options = {**_flatten_dict(self._config, delimiter="."), **metadata.known()}
        plain = {key: value if isinstance(value, int | float) else str(value) for key, value in options.items()}
        self._write(lambda: self.log_hyperparams(plain, self._summary or {"finished": 1.0}))
        self.finalize("success")

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the file."""
        self._write(lambda: super(TensorBoardRun, self).finalize(status))

    def _write(self, write: Callable[[], object]) -> None:
        self.attempt(write, (OSError,), pause=math.inf)  # the thread that writes has ended with the error
