"""RibFrac: rib fractures in 660 CTs, every fracture an instance of a mask (Jin et al., 2020).

One class: the challenge scores the detection of fractures of any kind. Code -1 of the tables is a fracture too, one
whose kind the readers could not tell.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from medpretrain3d.data.importers.base import RawCase, RawDataset
from medpretrain3d.data.importers.files import read_csv
from medpretrain3d.data.importers.layout import Layout, Misplaced


def read_ribfrac(raw: Path) -> RawDataset:
    """Read the layout; the archives may be unpacked into any folders below it.

    Raises:
        Misplaced: no table or no image below the folder.
        UserError: a damaged table.
    """
    split_of: dict[str, str] = {}
    instances_of: dict[str, dict[int, int]] = defaultdict(dict)
    for table in sorted(raw.rglob("ribfrac-*-info*.csv")):
        for row in read_csv(table, ["public_id", "label_id", "label_code"]):
            split_of[row["public_id"]] = "val" if "-val-" in table.name else "train"
            if int(row["label_id"]) > 0:
                instances_of[row["public_id"]][int(row["label_id"])] = 0
    if not split_of:
        raise Misplaced("no table ribfrac-train-info-1.csv, ribfrac-train-info-2.csv or ribfrac-val-info.csv")
    labels = {path.name.removesuffix("-label.nii.gz"): path for path in raw.rglob("RibFrac*-label.nii.gz")}
    images = sorted(
        raw.rglob("RibFrac*-image.nii.gz"), key=lambda path: int(re.sub(r"\D", "", path.name.split("-")[0]))
    )
    cases = []
    for image in images:
        public_id = image.name.removesuffix("-image.nii.gz")
        if public_id not in split_of:  # the test images, whose labels the challenge keeps
            cases.append(RawCase(public_id, (image,), split="unlabelled"))
            continue
        problem = "" if public_id in labels else f"{public_id}-label.nii.gz is missing"
        cases.append(
            RawCase(
                public_id,
                (image,),
                labels.get(public_id),
                instances_of[public_id],
                split=split_of[public_id],
                problem=problem,
            )
        )
    return RawDataset(("fracture",), tuple(cases), "instances", ("CT",))


LAYOUTS = (
    Layout(
        name="ribfrac",
        kind="detection",
        classes=("fracture",),
        licence="CC BY-NC 4.0",
        wanted="""  RAW/ribfrac-train-info-1.csv, ribfrac-train-info-2.csv, ribfrac-val-info.csv
  RAW/**/RibFrac<N>-image.nii.gz
  RAW/**/RibFrac<N>-label.nii.gz   (the archives, unpacked anywhere below RAW)""",
        signs=("**/ribfrac-*-info*.csv",),
        read=read_ribfrac,
    ),
)
