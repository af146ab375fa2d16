"""LiTS as originally released: liver tumours in 131 CTs, 70 more without labels (Bilic et al., 2023).

Values: 1 liver, which is anatomy, 2 tumour, of which each connected component is an object.
"""

from __future__ import annotations

from pathlib import Path

from medpretrain3d.ingest.importers.base import ANATOMY, RawCase, RawDataset
from medpretrain3d.ingest.importers.files import by_stem, twice
from medpretrain3d.ingest.importers.layout import Layout, Misplaced
from medpretrain3d.store.readers import find_volumes

CLASS_OF_VALUE = {1: ANATOMY, 2: 0}


def read_lits(raw: Path) -> RawDataset:
    """Read the layout; the batches may lie in any folders below it.

    Raises:
        Misplaced: no volume below the folder.
    """
    by_name = by_stem(find_volumes(raw, recursive=True))
    cases = []
    for name, images in by_name.items():
        kind, _, number = name.rpartition("-")
        if kind == "volume" and number.isdigit():
            labels = by_name.get(f"segmentation-{number}", [])
            problem = "" if labels else f"segmentation-{number}.nii is missing"
            problem = problem or twice(raw, images) or twice(raw, labels)
            cases.append(RawCase(name, (images[0],), next(iter(labels), None), CLASS_OF_VALUE, problem=problem))
        elif kind == "test-volume" and number.isdigit():
            cases.append(RawCase(name, (images[0],), split="unlabelled", problem=twice(raw, images)))
        elif kind == "segmentation" and number.isdigit() and f"volume-{number}" not in by_name:
            problem = f"{name} has no image volume-{number}.nii"
            cases.append(RawCase(f"volume-{number}", (), images[0], problem=problem))
    if not any(case.split == "train" and case.images for case in cases):
        raise Misplaced("no file volume-0.nii")
    cases.sort(key=lambda case: (case.split, int(case.id.rpartition("-")[2])))
    return RawDataset(("liver tumor",), tuple(cases), channel_names=("CT",))


LAYOUTS = (
    Layout(
        name="lits",
        kind="detection",
        classes=("liver tumor",),
        licence="CC BY-NC-ND 4.0",
        wanted="""  RAW/**/volume-<N>.nii         (131, "Training Batch 1" and "Training Batch 2")
  RAW/**/segmentation-<N>.nii
  RAW/**/test-volume-<N>.nii    (70, without labels, may be missing)""",
        patterns=("**/volume-[0-9]*.nii*", "**/segmentation-[0-9]*.nii*"),
        read=read_lits,
        page="""\
LiTS as originally released (Bilic et al., 2023): 131 CTs with labels, 70 without. Values: 1 liver (no object), 2
tumour.
Get it: competitions.codalab.org, competition 17094 (registration).
Licence: CC BY-NC-ND 4.0.
Errata: a mask whose affine is not that of its volume is skipped rather than guessed at. Cases without a tumour
are kept as negatives. The 131 cases are those of `msd_liver`.

```
RAW/Training Batch 1/volume-0.nii, segmentation-0.nii
RAW/Training Batch 2/volume-28.nii, segmentation-28.nii
RAW/**/test-volume-0.nii
```""",
    ),
)
