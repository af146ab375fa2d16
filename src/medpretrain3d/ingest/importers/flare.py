"""Corpora laid out as those of the FLARE challenges: folders of scans beside folders of labels (Ma et al., 2024)."""

from __future__ import annotations

import re
from pathlib import Path

from medpretrain3d.ingest.importers.base import RawDataset
from medpretrain3d.ingest.importers.folder import volumes_below
from medpretrain3d.ingest.importers.layout import Layout, Misplaced

LABEL_FOLDER = re.compile(
    r"((.*[-_])?(labels?|masks?|gt)|segmentations?|labels?(tr|ts|va)\d*|.*pseudo.*)", re.IGNORECASE
)
"""Whole names of folders, so that `FLARE22_LabeledCase50`, which holds images as well, is none."""


def read_flare(raw: Path) -> RawDataset:
    """Return every scan of a folder whose name does not speak of labels; nnU-Net's `_0000` is dropped.

    Raises:
        Misplaced: no scan in such a folder.
    """
    cases = [
        case
        for case in volumes_below(raw, num_channels=1)[0]
        if not any(LABEL_FOLDER.fullmatch(part) for part in case.images[0].relative_to(raw).parts[:-1])
    ]
    if not cases:
        raise Misplaced("no scan outside the folders of labels")
    return RawDataset((), tuple(cases), channel_names=("CT",))


LAYOUTS = (
    Layout(
        name="flare",
        kind="corpus",
        classes=(),
        licence="of the challenge's year",
        wanted="""  RAW/**/images/FLARE22_Tr_0001_0000.nii.gz, RAW/**/unlabeled.../Case_00001_0000.nii.gz
  RAW/**/labels/...                 (folders of labels are not read)""",
        patterns=("**/*FLARE*",),
        read=read_flare,
        page="""\
Corpora laid out as those of the FLARE challenges (Ma et al., 2024): folders of scans beside folders of labels, which
are not read.
Get it: the site of the challenge's year, as flare22.grand-challenge.org.
Licence: that of the challenge's year.
Errata: the labelled scans of 2022 are those of MSD Pancreas.

```
RAW/**/images/FLARE22_Tr_0001_0000.nii.gz
RAW/**/labels/FLARE22_Tr_0001.nii.gz               not read
RAW/**/FLARE22_UnlabeledCase1-1000/Case_00001_0000.nii.gz
```""",
    ),
)
