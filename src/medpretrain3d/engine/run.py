"""A run: its name, its folder, and the file with its metadata."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medpretrain3d.documents import json_text
from medpretrain3d.errors import UserError
from medpretrain3d.home import from_home
from medpretrain3d.names import plain_name
from medpretrain3d.run_metadata import RUN_DOCUMENT, RunMetadata, read_run_metadata
from medpretrain3d.threads import available_cores
from medpretrain3d.values import Count, Positive, check_fields


@dataclass(frozen=True)
class RunConfig:
    """Name, folder and tracking of a run, and what it keeps on its way. Its folder is `<root>/<group>/<name>`."""

    name: str = "run"
    """One plain folder name, as is the group."""
    group: str = "default"
    """One experiment; its runs are compared with each other."""
    root: str = "runs"
    arm: str | None = None
    """Arm of the comparison that it is of, by which dashboards group runs; its method where none is given."""
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """`auto`: online when WANDB_API_KEY is set, offline otherwise. WANDB_MODE wins over a recipe's `online` and
    `offline`, the command line over both."""
    wandb_project: str = "medpretrain3d"
    """WANDB_PROJECT wins over a recipe, the command line over both; so do WANDB_ENTITY, WANDB_RUN_GROUP and
    WANDB_TAGS over entity, group and tags."""
    wandb_entity: str | None = None
    """Team or user at wandb; that of the API key where none is given."""
    tags: str = ""
    """Further tags of the run, with commas between them."""
    artifacts: Literal["reference", "files", "none"] = "reference"
    """How encoder and detector bundle are kept at wandb: by name and hash, with their files, or not at all."""
    tensorboard: bool = False
    """Write curves for TensorBoard, too, into the run's folder."""
    mlflow: bool = False
    """Log to MLflow, too: to `<root>/mlflow.db`, or where MLFLOW_TRACKING_URI says."""
    share_machine: bool = False
    """Whether host name, paths, case ids and command line may go to wandb, TensorBoard and MLflow."""
    restart: bool = False
    """Throw away an earlier run in this folder instead of continuing it; once, where SLURM queues the job again."""
    checkpoint_every_minutes: Positive = 15.0
    """Of training at most between two states to continue from, however many steps that are."""
    snapshot_every_steps: Count | None = None
    """Keep an encoder file (stage 1) or bundle (stage 2) of every so many steps in `snapshots/`, for ever."""
    snapshot_every_hours: Positive | None = None
    """Or of the first whole step after every so many hours of the run, over all sittings."""

    def __post_init__(self) -> None:
        """Refuse what would make the run's folder another than one of its own, two levels below the root.

        Raises:
            UserError: a name or group that is no plain folder name, as an unset variable of a shell is none.
        """
        check_fields(self)
        for what, name in (("run.name", self.name), ("run.group", self.group)):
            if plain_name(name, what).startswith("-") or name.endswith("."):
                raise UserError(f"{what} {name!r}: wanted a plain folder name without a dash in front or a dot behind")
        if not isinstance(self.root, str) or not self.root.strip() or not self.root.isprintable():
            raise UserError(f"run.root {self.root!r}: wanted a folder, such as runs")
        if self.root.startswith("~"):
            object.__setattr__(self, "root", str(from_home(self.root)))

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.root) / self.group / self.name

    @property
    def checkpoints(self) -> Path:
        """Folder of the states that an interrupted run continues from."""
        return self.folder / "checkpoints"

    @property
    def snapshots(self) -> Path:
        """Folder of the encoder files or bundles that are kept on the way."""
        return self.folder / "snapshots"

    @property
    def raw_detections(self) -> Path:
        """What a detector saw in the validation volumes, for `medpretrain3d tune`."""
        return self.folder / "validation" / "sightings.safetensors"

    @property
    def checkpoint(self) -> Path:
        """A link to the newest of them."""
        return self.checkpoints / "last.ckpt"


class RunFile:
    """`run.json`: metadata, written when a run starts, now and then while it lasts, and completed when it ends.

    Keep one object for a whole sitting: it measures the minutes, to which those of earlier sittings are added.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / "run.json"
        self._started = time.monotonic()
        self._earlier_minutes = float(self.read().minutes or 0.0)

    def read(self) -> RunMetadata:
        """Return the metadata so far; empty before the first write."""
        return read_run_metadata(self.path) if self.path.exists() else RunMetadata()

    @property
    def minutes(self) -> float:
        """Wall-clock minutes of this run so far, earlier sittings included."""
        return round(self._earlier_minutes + (time.monotonic() - self._started) / 60, 4)

    def update(self, metadata: RunMetadata) -> None:
        """Add or replace metadata; the file is complete at any moment."""
        self.write(self.read() | metadata)

    def write(self, metadata: RunMetadata) -> None:
        """Replace all metadata but the minutes."""
        RUN_DOCUMENT.write(self.path, (metadata | RunMetadata(minutes=self.minutes)).to_json(), indent=2)


def new_run_id(metadata: RunMetadata, config: str) -> str:
    """Return an id for a run that begins: of its facts, its options and this moment, so that no other run has it.

    Args:
        metadata: of the run.
        config: the whole configuration as text.
    """
    parts = [json_text(metadata.to_json()), config, str(time.time_ns()), str(os.getpid())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def is_finished(folder: Path) -> bool:
    """Return whether a run ended well."""
    return bool(RunFile(folder).read().finished)


def git_sha() -> str:
    """Commit of this package's own checkout, with `+changes` when files differ from it; `unknown` outside one.

    A repository that merely surrounds an installed package, such as that of a thesis with a virtual environment in it,
    says nothing of what ran.
    """
    package = Path(__file__).resolve().parents[1]
    try:
        root = Path(_git(package, "rev-parse", "--show-toplevel"))
        if not package.samefile(root / "src" / package.name):
            return "unknown"
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        sha = _git(package, "rev-parse", "--short=12", "HEAD")
        return f"{sha}+changes" if _git(package, "status", "--porcelain", "--untracked-files=no") else sha
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *words: str) -> str:
    # Hooks of other repositories set variables that would lead there.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def machine() -> str:
    """Describe the hardware for a results table: cores or GPUs, never a host name."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"{available_cores()} cores, {platform.machine()}, no GPU"
