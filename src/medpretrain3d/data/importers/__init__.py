"""One file per raw layout: from a folder to the cases in it."""

from __future__ import annotations

from pathlib import Path

from medpretrain3d.data.importers.base import ObjectRule, RawCase, RawDataset
from medpretrain3d.data.importers.folder import read_folder
from medpretrain3d.data.importers.nnunet import read_nnunet
from medpretrain3d.errors import UserError

__all__ = ["ObjectRule", "RawCase", "RawDataset", "read_raw"]


LAYOUTS = """wanted one of
  RAW/dataset.json, RAW/imagesTr/<id>_0000.nii.gz, RAW/labelsTr/<id>.nii.gz   (nnU-Net, MSD)
  RAW/**/*.nii.gz or *.nii                                                    (volumes without labels)"""


def read_raw(raw: Path, fold: int = 0) -> RawDataset:
    """Recognise the layout of a raw folder and list its cases.

    Raises:
        UserError: the folder is missing or has none of the known layouts.
    """
    raw = Path(raw)
    if not raw.is_dir():
        raise UserError(f"{raw}: no such folder; give the folder that holds the raw data")
    dataset = read_nnunet(raw, fold)
    if dataset is None and (raw / "dataset.json").is_file():
        raise UserError(f"{raw}: has dataset.json but no imagesTr beside it; found {_content(raw)}; {LAYOUTS}")
    dataset = dataset or read_folder(raw)
    if dataset is None or not dataset.cases:
        raise UserError(f"{raw}: no volumes; found {_content(raw)}; {LAYOUTS}")
    return dataset


def _content(folder: Path) -> str:
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) or "an empty folder") + more
