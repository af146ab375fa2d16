"""CT-RATE: 50,188 reconstructions of 25,692 chest CTs, a corpus (Hamamci et al., 2024)."""

from __future__ import annotations

from pathlib import Path

from medpretrain3d.ingest.importers.base import RawCase, RawDataset
from medpretrain3d.ingest.importers.layout import Layout, Misplaced
from medpretrain3d.store.readers import find_volumes, volume_stem

FOLDERS = {"train_fixed": "train", "train": "train", "valid_fixed": "val", "valid": "val"}
"""Folders of scans and their split; the corrected ones outrank those of the first release."""


def read_ct_rate(raw: Path) -> RawDataset:
    """Read the layout; the folder may be that of the repository or its `dataset`.

    `train_1_a_2.nii.gz` is reconstruction 2 of scan a of patient 1.

    Raises:
        Misplaced: no scan below the folder.
    """
    root = raw / "dataset" if (raw / "dataset").is_dir() else raw
    images: dict[str, tuple[Path, str]] = {}
    for folder, split in FOLDERS.items():
        for path in find_volumes(root / folder, recursive=True):
            images.setdefault(volume_stem(path), (path, split))
    if not images:
        raise Misplaced("no scan in train_fixed, train, valid_fixed or valid")
    cases = [
        RawCase(name, (path,), patient="_".join(name.split("_")[:2]), split=split)
        for name, (path, split) in sorted(images.items())
    ]
    return RawDataset((), tuple(cases), channel_names=("CT",))


LAYOUTS = (
    Layout(
        name="ct_rate",
        kind="corpus",
        classes=(),
        licence="CC BY-NC-SA 4.0",
        wanted="""  RAW/dataset/train_fixed/train_1/train_1_a/train_1_a_1.nii.gz   (train of the first release will do)
  RAW/dataset/valid_fixed/valid_1/valid_1_a/valid_1_a_1.nii.gz   (may be missing)""",
        patterns=("**/train*/train_[0-9]*/train_[0-9]*/train_*.nii.gz",),
        read=read_ct_rate,
        page="""\
50,188 reconstructions of 25,692 non-contrast chest CTs of 21,304 patients (Hamamci et al., 2024).
Get it: the data set ibrahimhamamci/CT-RATE (registration).
Licence: CC BY-NC-SA 4.0.
Errata: headers of the first release are wrong in part; `train_fixed` and `valid_fixed` are the corrected scans and
outrank `train` and `valid` where both are there. Users report scans of the head among them.

```
RAW/dataset/train_fixed/train_1/train_1_a/train_1_a_1.nii.gz      reconstruction 1 of scan a of patient 1
RAW/dataset/valid_fixed/valid_1/valid_1_a/valid_1_a_1.nii.gz
```""",
    ),
)
