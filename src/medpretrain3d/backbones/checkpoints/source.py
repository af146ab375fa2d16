"""From what a user names (file, folder, hub id) to the one file of weights that is meant."""

from __future__ import annotations

import re
from pathlib import Path

from medpretrain3d.atomic import put_back
from medpretrain3d.backbones.checkpoints.hub import fetch, is_hub_id
from medpretrain3d.backbones.checkpoints.raw import PREFERRED, SUFFIXES
from medpretrain3d.errors import UserError
from medpretrain3d.values import shown

OWN_CARDS = ("encoder.json", "bundle.json")
"""A folder with one of these is one of ours, and is read as a whole."""
RUN_PRODUCTS = ("encoder", "bundle")
"""What the folder of a run is meant by: stage 1 writes the one, stage 2 the other."""
RUN_CHECKPOINTS = "checkpoints"
"""And one that has not ended."""


def locate(source: str | Path) -> Path:
    """Return the file of weights, or the folder where it is an encoder file or a detector bundle of this package.

    Raises:
        UserError: no name of a place, nothing there, no weights in the folder, or several files none of which is
            preferred.
    """
    if not isinstance(source, str | Path):
        raise UserError(f"got {shown(source)} as weights, wanted a path, or owner/name of a hub")
    path = Path(source).expanduser()
    put_back(path)
    if not path.exists():
        if not is_hub_id(str(source)):
            raise UserError(
                f"{source}: no such file or folder, and not of the form owner/name of a hub; wanted an encoder file "
                f"(runs/<group>/<name>/encoder), a checkpoint ({', '.join(SUFFIXES)}) or a folder that holds one"
            )
        path = fetch(str(source))
    if path.is_file():
        is_part_of_ours = path.suffix in (".json", ".safetensors") and _is_ours(path.parent)
        return path.parent if is_part_of_ours else path
    for ours in (path, *(path / name for name in RUN_PRODUCTS)):
        if _is_ours(ours):
            return ours
    of_run = path / RUN_CHECKPOINTS
    return choose(of_run if of_run.is_dir() and _weights_in(of_run) else path)


def choose(folder: Path) -> Path:
    """Return the file of weights in a folder, or in its only subfolder that holds one (nnU-Net's `fold_0`).

    Raises:
        UserError: none, or several without a preferred one.
    """
    files = _weights_in(folder)
    if not files:
        below = [files for child in sorted(folder.iterdir()) if child.is_dir() and (files := _weights_in(child))]
        if len(below) > 1:
            names = ", ".join(files[0].parent.name for files in below)
            raise UserError(f"{folder}: {len(below)} of its folders hold checkpoints ({names}); name one of them")
        files = below[0] if below else []
    if not files:
        raise UserError(f"{folder}: no checkpoint here, wanted a file that ends with {', '.join(SUFFIXES)}")
    for name in PREFERRED:
        if matching := [file for file in files if file.name == name]:
            return matching[0]
    if all(re.fullmatch(r"step_\d+", file.stem) for file in files):
        return max(files, key=lambda file: int(file.stem.removeprefix("step_")))
    if len(files) > 1:
        raise UserError(
            f"{folder}: {len(files)} checkpoints ({', '.join(f.name for f in files[:5])}); name one of them"
        )
    return files[0]


def _weights_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in SUFFIXES)


def _is_ours(folder: Path) -> bool:
    put_back(folder)
    return any((folder / card).is_file() for card in OWN_CARDS)
