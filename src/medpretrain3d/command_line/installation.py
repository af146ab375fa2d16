"""Where the stages and the recipes lie: beside `src/` in a checkout, inside the package where a wheel was installed."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def programs_folder() -> Path:
    """The folder of `pretrain/`, `finetune/` and `configs/`.

    A wheel holds them below the package (`setup.py` puts them there), since modules called `pretrain` at the top of
    site-packages would be everyone's.
    """
    installed = PACKAGE / "programs"
    return installed if installed.is_dir() else PACKAGE.parents[1]
