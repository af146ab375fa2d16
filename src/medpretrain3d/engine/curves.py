"""Curves on disk: one `metrics.csv` per run, always, whatever else tracks it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from medpretrain3d.atomic import write_text


class CurveLogger(Logger):
    """Writes `metrics.csv`: a row per logged step, a column per metric, empty where nothing was measured.

    Lightning's own CSVLogger deletes the earlier rows of a resumed run; this one keeps those up to the step that the
    run resumes from.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = Path(folder) / "metrics.csv"
        self._columns: list[str] = ["epoch", "step"]
        self._rows: list[dict[str, Any]] = []
        self._written = 0
        self._resumed = False

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
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add the numbers to the row of this step."""
        step = step or 0
        self._resume_from(step)
        row = {**metrics, "step": step}
        self._columns += [name for name in row if name not in self._columns]
        if self._rows and self._rows[-1]["step"] == step:
            self._rows[-1].update(row)
        else:
            self._rows.append(row)

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: the configuration is in `config.yaml`, the facts in `run.json`."""

    @rank_zero_only
    def save(self) -> None:
        """Write the file anew: complete at any moment, and new columns find their place."""
        if len(self._rows) == self._written and self._path.exists():
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self._path, text.getvalue())
        self._written = len(self._rows) - 1  # the last row may still grow

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        self._written = -1
        if self._rows:
            self.save()

    def _resume_from(self, step: int) -> None:
        if self._resumed:
            return
        self._resumed = True
        if step > 0 and self._path.exists():
            with self._path.open(newline="") as file:
                reader = csv.DictReader(file)
                self._columns = list(reader.fieldnames or self._columns)
                self._rows = [{**row, "step": int(row["step"])} for row in reader if int(row["step"]) < step]
