"""A run at wandb: its axes, its results, and the weights that it used and made."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray

from medpretrain3d.engine.results_board import Chart, ResultsBoard, Table, drawn_boxes
from medpretrain3d.engine.tracked_run import SAMPLES, TrackedRun
from medpretrain3d.run_metadata import RunMetadata

STEP = "trainer/global_step"
DATA_DIR = "WANDB_DATA_DIR"
HIGHEST = ("val/mAP", "val/AP10", "val/AP50", "val/FROC10", "val/AP_center", "val/CPM")
"""Of these the best value is kept beside the last one."""


class WandbRun(TrackedRun, WandbLogger):
    """Lightning's logger on a run that is open already, in which every chart has a common axis.

    A row of wandb is a step of the optimizer, as one of `metrics.csv` is. Curves of runs with other batch sizes are
    compared over `samples_seen`. A step that a continued run makes again has its row already.

    Args:
        experiment: wandb's run.
        folder: of the run.
        samples_per_step: of the optimizer, over all processes; None where nobody counts.
        artifacts: how weights are kept: by name and hash, with their files, or not at all.
    """

    def __init__(
        self,
        experiment: Any,
        folder: Path,
        samples_per_step: int | None = None,
        artifacts: Literal["reference", "files", "none"] = "reference",
    ) -> None:
        super().__init__(save_dir=str(folder), experiment=experiment)
        self._folder = folder
        self.samples_per_step = samples_per_step
        self._artifacts = artifacts
        self._is_open = True
        self._define_axes()

    @rank_zero_only
    def _define_axes(self) -> None:
        # Lightning does this for runs that it opens itself.
        run = self.experiment
        run.define_metric(STEP)
        run.define_metric(SAMPLES, step_metric=STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        for name in HIGHEST:
            run.define_metric(name, step_metric=STEP, summary="max,last")
        for name in ("train/loss", "val/loss"):
            run.define_metric(name, step_metric=STEP, summary="min,last")

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add the numbers to the row of this step."""
        if step is None:
            self.experiment.log(dict(metrics))
            return
        if step >= self.experiment.step:
            self.experiment.log({**self.with_samples(metrics, step), STEP: step}, step=step)

    @rank_zero_only
    def show(self, board: ResultsBoard, step: int) -> None:
        """Show the results of a test."""
        import wandb

        with _copies_within(self.experiment, self._folder):
            media: dict[str, Any] = {f"test/{name}": _table(one) for name, one in board.tables.items()}
            media |= {f"test/{name}": _chart(one) for name, one in board.charts.items()}
            for place, (case, slices) in enumerate(board.slices.items()):  # a panel each: pictures of one are alike
                media[f"test/boxes_{place}"] = [
                    wandb.Image(one.image, boxes=drawn_boxes(one, board.classes), caption=f"{case}, slice {one.index}")
                    for one in slices
                ]
            self.experiment.log({**media, STEP: step}, step=step)
        self.experiment.summary.update({f"test/{name}": value for name, value in board.summary.items()})

    @rank_zero_only
    def show_picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Show a picture in the row of this step."""
        self.log_image(name, [picture], step=step)

    @rank_zero_only
    def use_weights(self, kind: str, sha256: str, source: Path | None, about: Mapping[str, Any]) -> None:
        """Say which weights the run begins with; the same file is the same artifact in every run."""
        # `Run.use_artifact` refuses to note it for later where there is no network.
        self._log_artifact(kind, f"{kind}-{sha256[:16]}", sha256, source, about, use_after_commit=True)

    @rank_zero_only
    def keep_weights(self, kind: str, sha256: str, folder: Path, about: Mapping[str, Any]) -> None:
        """Say which weights the run made."""
        self._log_artifact(kind, f"{kind}-{sha256[:16]}", sha256, folder, about)

    def _log_artifact(
        self, kind: str, name: str, sha256: str, source: Path | None, about: Mapping[str, Any], **how: Any
    ) -> None:
        if self._artifacts == "none":
            return
        import wandb

        artifact = wandb.Artifact(name, type=kind, metadata={"sha256": sha256, **about})
        if self._artifacts == "files" and source is not None and source.is_dir():
            artifact.add_dir(str(source), policy="immutable")
        elif self._artifacts == "files" and source is not None:
            artifact.add_file(str(source), policy="immutable")
        else:
            with redirect_stderr(io.StringIO()):  # a warning that the hash, of which it consists, is not looked at
                artifact.add_reference(f"sha256:{sha256}", name=kind, checksum=False)
        with _copies_within(self.experiment, self._folder):
            if how:
                self.experiment._log_artifact(artifact, is_user_created=True, **how)
            else:
                self.experiment.log_artifact(artifact)

    @rank_zero_only
    def conclude(self, metadata: RunMetadata) -> None:
        """Add what is known at the end, and close the run."""
        facts = metadata.known()
        self.experiment.config.update(facts, allow_val_change=True)
        self.experiment.summary.update({key: value for key, value in facts.items() if not isinstance(value, str)})
        self._is_open = False
        self.experiment.finish()

    @rank_zero_only
    def leave(self) -> None:
        """Close the run as one that did not end well; the same command continues it."""
        if self._is_open:
            self._is_open = False
            self.experiment.finish(exit_code=1)


@contextmanager
def _copies_within(run: Any, folder: Path) -> Iterator[None]:
    """While it lasts, copies of the files of artifacts of an offline run lie in the run's folder, named as from there.

    So the folder can be sent from another machine, by `wandb sync` inside of it, and says nothing of where it lay.
    """
    if not run.offline:
        yield
        return
    before, inner = os.environ.get(DATA_DIR), run._log_artifact
    os.environ[DATA_DIR] = str((folder / "wandb" / "staging").absolute())

    def log(artifact: Any, *args: Any, **kwargs: Any) -> Any:
        for entry in artifact.manifest.entries.values():
            if entry.local_path and Path(entry.local_path).is_relative_to(folder.absolute()):
                entry.local_path = os.path.relpath(entry.local_path, folder)
        return inner(artifact, *args, **kwargs)

    run._log_artifact = log
    try:
        yield
    finally:
        del run._log_artifact
        os.environ.pop(DATA_DIR)
        os.environ.update({} if before is None else {DATA_DIR: before})


def _table(one: Table) -> Any:
    import wandb

    return wandb.Table(columns=list(one.columns), data=[list(row) for row in one.rows])


def _chart(one: Chart) -> Any:
    import wandb

    xs, ys = ([[point[axis] for point in line] for line in one.lines.values()] for axis in (0, 1))
    return wandb.plot.line_series(xs=xs, ys=ys, keys=list(one.lines), title=one.title, xname=one.x_name)
