"""One file per raw layout: from a folder to the cases in it."""

from __future__ import annotations

from pathlib import Path

from medpretrain3d.data.importers.base import ObjectRule, RawCase, RawDataset
from medpretrain3d.data.importers.folder import read_folder
from medpretrain3d.data.importers.nnunet import read_nnunet
from medpretrain3d.errors import UserError

__all__ = ["ObjectRule", "RawCase", "RawDataset", "read_raw"]


def read_raw(raw: Path, fold: int = 0) -> RawDataset:
    """Recognise the layout of a raw folder and list its cases.

    Raises:
        UserError: the folder is missing or has none of the known layouts.
    """
    raw = Path(raw)
    if not raw.is_dir():
        raise UserError(f"{raw}: no such folder; give the folder that holds the raw data")
    dataset = read_nnunet(raw, fold) or read_folder(raw)
    if dataset is None or not dataset.cases:
        held = ", ".join(sorted(path.name for path in raw.iterdir())[:8]) or "nothing"
        raise UserError(
            f"{raw}: holds {held}; wanted either dataset.json with imagesTr/<id>_0000.nii.gz and labelsTr/<id>.nii.gz, "
            "or .nii/.nii.gz volumes at any depth"
        )
    return dataset
