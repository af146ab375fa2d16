"""Curves on disk: one `metrics.csv` per run, always, whatever else tracks it."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from medpretrain3d.atomic import write_tail, write_text
from medpretrain3d.engine.run_log import run_log
from medpretrain3d.engine.tracked_run import with_samples

Row = dict[str, Any]


class CurveLogger(Logger):
    """Writes `metrics.csv`: a row per logged step, a column per metric, empty where nothing was measured.

    A row is in the file as soon as it is logged, behind the earlier ones, and grows there with what else is measured
    at its step; the whole file is written anew only when a new column appears. A run that starts from nothing replaces
    the file, one that goes on keeps what `continue_from` leaves of it.

    Args:
        folder: the run's folder.
        samples_per_step: of the optimizer, over all processes; None where nobody counts.
    """

    def __init__(self, folder: Path, samples_per_step: int | None = None) -> None:
        super().__init__()
        self._samples_per_step = samples_per_step
        self._path = Path(folder) / "metrics.csv"
        self._columns = ["epoch", "step"]
        self._last: Row = {}
        self._last_start = 0
        """Where the last row begins in the file, in bytes; 0 before there is a file of this run."""

    @property
    def name(self) -> str:
        """Name of the folder above the run."""
        return self._path.parent.parent.name

    @property
    def version(self) -> str:
        """Name of the run."""
        return self._path.parent.name

    @property
    def save_dir(self) -> str:
        """The run's folder."""
        return str(self._path.parent)

    @rank_zero_only
    def continue_from(self, step: int) -> None:
        """Keep the rows of the steps before `step`, with which the run goes on; rows damaged by a crash are cut."""
        if not self._path.exists():
            return
        columns, rows, num_damaged = _read(self._path)
        if num_damaged:
            run_log.say(
                f"{self._path}: {num_damaged} damaged line(s) at the end are cut, written when the run was interrupted"
            )
        self._columns = columns or self._columns
        self._write_anew([row for row in rows if row["step"] < step])

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add the numbers to the row of this step."""
        row = {**with_samples(metrics, step or 0, self._samples_per_step), "step": step or 0}
        is_new_file = not self._last_start or not self._path.exists()
        is_same_step = bool(self._last) and self._last["step"] == row["step"]
        new_columns = [name for name in row if name not in self._columns]
        self._columns += new_columns
        if is_new_file:
            self._write_anew([row])
        elif new_columns:
            earlier = _read(self._path)[1]
            self._write_anew([*earlier[:-1], {**self._last, **row}] if is_same_step else [*earlier, row])
        else:
            if is_same_step:
                row = {**self._last, **row}
            elif self._last:
                self._last_start += len(self._line(self._last).encode())
            self._last = row
            write_tail(self._path, self._last_start, self._line(row))

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: the configuration is in `config.yaml`, the facts in `run.json`."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Flush what was written to disk."""
        if self._last_start and self._path.exists():
            with self._path.open("rb") as file:
                os.fsync(file.fileno())

    def _write_anew(self, rows: Sequence[Row]) -> None:
        head = _csv([self._columns]) + "".join(self._line(row) for row in rows[:-1])
        self._last = dict(rows[-1]) if rows else {}
        self._last_start = len(head.encode())
        write_text(self._path, head + (self._line(self._last) if rows else ""))

    def _line(self, row: Row) -> str:
        return _csv([[row.get(name, "") for name in self._columns]])


class ContinuedCurves(L.Callback):
    """Tells the curves with which step the run goes on: that of the checkpoint it is continued from.

    Args:
        curves: of the run.
    """

    def __init__(self, curves: CurveLogger) -> None:
        self._curves = curves

    def on_load_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Cut what was logged after the checkpoint."""
        self._curves.continue_from(checkpoint["global_step"])


def _read(path: Path) -> tuple[list[str], list[Row], int]:
    """Return columns, rows up to the first that is not whole, and the number of lines from there on."""
    lines = path.read_bytes().split(b"\n")
    whole, torn = lines[:-1], lines[-1]
    columns: list[str] = []
    rows: list[Row] = []
    for index, line in enumerate(whole):
        cells = _cells(line)
        if index == 0 and "step" in cells:
            columns = cells
        elif len(cells) == len(columns) > 0 and (row := dict(zip(columns, cells, strict=True)))["step"].isdecimal():
            rows.append({**row, "step": int(row["step"])})
        else:
            return columns, rows, len(whole) - index + bool(torn)
    return columns, rows, int(bool(torn))


def _cells(line: bytes) -> list[str]:
    try:
        return next(csv.reader([line.decode()]), [])
    except (UnicodeDecodeError, csv.Error):
        return []


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
