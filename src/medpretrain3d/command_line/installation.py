"""Locations of the stages and the recipes: beside `src/` in a checkout, inside the package in an installed wheel."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def programs_folder() -> Path:
    """Return the folder of `pretrain/`, `finetune/` and `configs/`.

    A wheel holds them below the package (`setup.py` puts them there), since modules called `pretrain` at the top of
    site-packages would be everyone's.
    """
    installed = PACKAGE / "programs"
    return installed if installed.is_dir() else PACKAGE.parents[1]
