"""RibFrac: rib fractures in 660 CTs, every fracture an instance of a mask (Jin et al., 2020).

One class: the challenge scores the detection of fractures of any kind. Code -1 of the tables is a fracture too, one
whose kind the readers could not tell.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from medpretrain3d.ingest.importers.base import Leftover, RawCase, RawDataset
from medpretrain3d.ingest.importers.files import find_files, read_csv, twice, whole
from medpretrain3d.ingest.importers.ids import ScanIds
from medpretrain3d.ingest.importers.layout import Layout, Misplaced


def read_ribfrac(raw: Path) -> RawDataset:
    """Read the layout; the archives may be unpacked into any folders below it.

    Raises:
        Misplaced: no table or no image below the folder.
        UserError: a damaged table.
    """
    labels, images = (_files(raw, what) for what in ("label", "image"))
    scans = ScanIds({**images, **labels})
    split_of: dict[str, str] = {}
    instances_of: dict[str, dict[int, int]] = defaultdict(dict)
    leftovers: list[Leftover] = []
    tables = find_files(raw, "ribfrac-*-info*.csv")
    for table in tables:
        rows = read_csv(table, ["public_id", "label_id", "label_code"])
        scan_of, unmet = scans.meet(table, [row["public_id"] for row in rows])
        leftovers += unmet
        for row in rows:
            public_id = scan_of.get(row["public_id"])
            if public_id is None:
                continue
            split_of[public_id] = "val" if "-val-" in table.name else "train"
            if (label_id := whole(table, row, "label_id")) > 0:
                instances_of[public_id][label_id] = 0
    if not tables:
        raise Misplaced("no table ribfrac-train-info-1.csv, ribfrac-train-info-2.csv or ribfrac-val-info.csv")
    cases = []
    for public_id in sorted({*images, *labels}, key=lambda name: (int(re.sub(r"\D", "", name) or 0), name)):
        image, masks = images.get(public_id, []), labels.get(public_id, [])
        problem = twice(raw, image) or twice(raw, masks)
        if public_id in split_of and not masks:
            problem = f"{public_id}-label.nii.gz is missing"
        elif not image:
            problem = f"{public_id}-image.nii.gz is missing"
        elif masks and public_id not in split_of:
            problem = f"has {public_id}-label.nii.gz, but no row in a table"
        # The test images have neither label nor row: the challenge keeps them.
        split = split_of.get(public_id, "train" if problem else "unlabelled")
        instances = instances_of[public_id] if public_id in split_of else {}
        mask = masks[0] if masks and image and public_id in split_of else None
        cases.append(RawCase(public_id, tuple(image[:1]), mask, instances, split=split, problem=problem))
    return RawDataset(
        ("fracture",), tuple(cases), "instances", ("CT",), tables=tuple(tables), leftovers=tuple(leftovers)
    )


def _files(raw: Path, what: str) -> dict[str, list[Path]]:
    """Return `RibFrac<N>-<what>.nii.gz` by `RibFrac<N>`."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in find_files(raw, f"RibFrac*-{what}.nii.gz"):
        found[path.name.removesuffix(f"-{what}.nii.gz")].append(path)
    return dict(found)


LAYOUTS = (
    Layout(
        name="ribfrac",
        kind="detection",
        classes=("fracture",),
        licence="CC BY-NC 4.0",
        wanted="""  RAW/ribfrac-train-info-1.csv, ribfrac-train-info-2.csv, ribfrac-val-info.csv
  RAW/**/RibFrac<N>-image.nii.gz
  RAW/**/RibFrac<N>-label.nii.gz   (the archives, unpacked anywhere below RAW)""",
        patterns=("**/ribfrac-*-info*.csv",),
        read=read_ribfrac,
        page="""\
About 5,000 rib fractures in 660 CTs (Jin et al., 2020): 420 for training, 80 for validation, 160 for testing without
labels.
Get it: ribfrac.grand-challenge.org; Zenodo records 3893508 and 3893498 (training), 3893496 (validation), 3993380
(test).
Licence: CC BY-NC 4.0.
Errata: code -1 is a fracture of undefined type, kept as a fracture. None else known to us.

```
RAW/ribfrac-train-info-1.csv, ribfrac-train-info-2.csv, ribfrac-val-info.csv   public_id,label_id,label_code
RAW/**/RibFrac1-image.nii.gz
RAW/**/RibFrac1-label.nii.gz      a value per fracture
```""",
    ),
)
