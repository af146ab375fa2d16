"""The checkpoints of a run on disk: written whole, the last two kept, a damaged one recognised."""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from medpretrain3d.atomic import finished_file, remove_unfinished
from medpretrain3d.engine.distributed import rank_zero_print
from medpretrain3d.errors import UserError
from medpretrain3d.finite import require_finite

_UNKNOWN = 1 << 62
LAST = "last.ckpt"
"""A link to the newest checkpoint; a file of its own in runs of earlier versions."""


class CheckpointFiles(CheckpointIO):
    """Reads and writes single checkpoints for Lightning.

    Lightning's own writer moves a temporary file from TMPDIR, which on another file system is a copy over the old one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write beside `path`, then rename.

        Raises:
            UserError: a weight is not finite, the disk is full or the folder cannot be written.
        """
        require_finite(f"{path}: not written", _trained(checkpoint), "the run has diverged, lower model.optim.lr")
        with finished_file(Path(path)) as unfinished, unfinished.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # how PyTorch's archive writer passes on what the file said
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read plain data and tensors, never code.

        Raises:
            UserError: the file is damaged, or a weight in it is not finite.
        """
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        except (OSError, RuntimeError, UnpicklingError, EOFError) as error:
            raise UserError(f"{path}: not readable as a checkpoint ({_first_line(error)})") from error
        require_finite(str(path), _trained(checkpoint), "the run had diverged; begin again with run.restart=true")
        callbacks = checkpoint.get("callbacks", {})
        if "Checkpoints" not in callbacks:  # of an earlier version, whose own callback Lightning would miss
            checkpoint["callbacks"] = {k: v for k, v in callbacks.items() if not k.startswith("ModelCheckpoint")}
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint that may be gone already."""
        Path(path).unlink(missing_ok=True)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the checkpoint path of a step, in the folder of a run's checkpoints."""
    return folder / f"step_{step:07d}.ckpt"


def has_checkpoints(folder: Path) -> bool:
    """Return whether there is anything to continue from, damaged or not."""
    return bool(_found(folder))


def num_steps_done(folder: Path) -> int:
    """Optimizer steps in the newest checkpoint that says so; 0 without checkpoints."""
    return max((steps for path in _found(folder) if (steps := _num_steps(path)) < _UNKNOWN), default=0)


def newest_whole_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the most steps whose every byte is as it was written; None if there are no checkpoints.

    Damaged ones are named. Files of earlier versions count too: `last.ckpt`, and `hpc_ckpt_1.ckpt` and the like in the
    folder above, which Lightning wrote when SLURM preempted a run.

    Args:
        folder: of the run's checkpoints.

    Raises:
        UserError: all are damaged.
    """
    damaged = []
    for _, path in sorted(((_num_steps(path), path) for path in _found(folder)), reverse=True):
        damage = _damage(path)
        if damage is None:
            return path
        damaged.append(path)
        rank_zero_print(f"{path}: this checkpoint is damaged ({damage}); taking the one before it")
    if damaged:
        raise UserError(
            f"{folder}: no whole checkpoint is left to continue from ({', '.join(path.name for path in damaged)} "
            "damaged); copy one back from a backup, or begin again with run.restart=true"
        )
    return None


def adopt(path: Path, folder: Path, step: int) -> list[Path]:
    """Give the checkpoint that a run continues from its usual name, whatever wrote it; what has more steps goes.

    Returns:
        The checkpoints that are kept: one with fewer steps, if there is one, and this.
    """
    own = checkpoint_path(folder, step)
    source = path.resolve()
    if source != own.resolve():
        with finished_file(own) as unfinished:  # a copy: the folder may be a link to another disk
            shutil.copyfile(source, unfinished)
    older = [path for path in _found(folder) if path.parent == folder and path.name < own.name and path.name != LAST]
    kept = [*sorted(older)[-1:], own]
    keep_only(folder, kept)
    return kept


def keep_only(folder: Path, kept: list[Path]) -> None:
    """Link `last.ckpt` to the last of the checkpoints to keep, then remove all others.

    In this order: at every moment the link and the files it may name are there.
    """
    _link(folder / LAST, kept[-1])
    for path in _found(folder):
        if path not in kept and path.name != LAST:
            path.unlink(missing_ok=True)
    remove_unfinished(folder)


def _found(folder: Path) -> list[Path]:
    """Return all checkpoint files; `last.ckpt` only where it is a file of its own."""
    own = [path for path in folder.glob("step_*.ckpt") if re.fullmatch(r"step_\d+", path.stem)]
    last = [path for path in [folder / LAST] if path.is_file() and path.resolve() not in {one.resolve() for one in own}]
    return [*own, *last, *folder.parent.glob("hpc_ckpt_*.ckpt")]


def _num_steps(path: Path) -> int:
    """Optimizer steps in a checkpoint by its name, or by what it says; more than any where it cannot be read."""
    named = re.fullmatch(r"step_(\d+)", path.stem)
    if named:
        return int(named[1])
    try:
        return int(torch.load(path, weights_only=True, map_location="cpu", mmap=True)["global_step"])
    except Exception:  # whatever is wrong with it is said when it is its turn
        return _UNKNOWN


def _damage(path: Path) -> str | None:
    """Return the defect of a file, None if it has none. Every record has a checksum, which PyTorch does not look at."""
    try:
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
        if record is not None:
            return f"wrong checksum of {record}"
        state = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        missing = [key for key in ("global_step", "state_dict", "loops", "optimizer_states") if key not in state]
        if not missing:
            require_finite("its training diverged", _trained(state), "it is of no use")
        return f"no {missing[0]} in it" if missing else None
    except Exception as error:  # a damaged file may raise anything
        return _first_line(error)


def _trained(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Select the trained state of a checkpoint: weights, averaged or not, and the state of the optimizer."""
    parts = ("state_dict", "current_model_state", "optimizer_states")  # the second of Lightning's WeightAveraging
    return {name: checkpoint[name] for name in parts if name in checkpoint}


def _link(link: Path, target: Path) -> None:
    unfinished = link.with_name(f".{link.name}.link")
    unfinished.unlink(missing_ok=True)
    try:
        unfinished.symlink_to(target.name)
    except OSError:  # a file system without symbolic links: the files alone say what is newest
        link.unlink(missing_ok=True)
        return
    os.replace(unfinished, link)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
