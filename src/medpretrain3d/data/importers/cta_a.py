"""CTA-A: intracranial aneurysms in CT angiographies, the Large IA Segmentation data set (Bo et al., 2021).

Each connected component of an aneurysm mask is an object. The table of the authors' code says which case is for what.
"""

from __future__ import annotations

from pathlib import Path

from medpretrain3d.data.importers.base import RawCase, RawDataset
from medpretrain3d.data.importers.files import below, read_csv
from medpretrain3d.data.importers.layout import Layout, Misplaced
from medpretrain3d.data.readers import find_volumes, volume_stem
from medpretrain3d.errors import UserError

TABLE = "aneurysm_seg.csv"
SPLITS = {"train": "train", "eval": "val", "val": "val", "test": "test"}


def read_cta_a(raw: Path) -> RawDataset:
    """Read the layout, with or without the table; without it every pair of files is for training.

    Raises:
        Misplaced: no pair of image and mask.
        UserError: a damaged table.
    """
    table = raw / TABLE
    cases = _from_table(raw, table) if table.is_file() else _from_folders(raw)
    if not cases:
        raise Misplaced("no pair cta_img/<id>.nii.gz and ane_seg/<id>.nii.gz")
    return RawDataset(("aneurysm",), tuple(cases), channel_names=("CT",))


def _from_table(raw: Path, table: Path) -> list[RawCase]:
    cases = []
    for row in read_csv(table, ["subset", "id", "cta_img_file", "aneurysm_seg_file"]):
        if row["subset"] not in SPLITS:
            raise UserError(f"{table}: {row['id']} is in subset {row['subset']!r}, wanted {', '.join(SPLITS)}")
        image, labels = below(raw, row["cta_img_file"]), below(raw, row["aneurysm_seg_file"])
        missing = next((path for path in (image, labels) if not path.is_file()), None)
        problem = f"{TABLE} names {missing.relative_to(raw)}, which is not there" if missing else ""
        cases.append(RawCase(row["id"], (image,), labels, {1: 0}, split=SPLITS[row["subset"]], problem=problem))
    return cases


def _from_folders(raw: Path) -> list[RawCase]:
    labels = {volume_stem(path): path for folder in raw.glob("**/ane_seg") for path in find_volumes(folder)}
    images = sorted(path for folder in raw.glob("**/cta_img") for path in find_volumes(folder))
    return [
        RawCase(
            volume_stem(image),
            (image,),
            labels.get(volume_stem(image)),
            {1: 0},
            problem="" if volume_stem(image) in labels else f"ane_seg/{volume_stem(image)}.nii.gz is missing",
        )
        for image in images
    ]


LAYOUTS = (
    Layout(
        name="cta_a",
        kind="detection",
        classes=("aneurysm",),
        licence="see doi.org/10.5281/zenodo.6801398",
        wanted="""  RAW/cta_img/<id>.nii.gz
  RAW/ane_seg/<id>.nii.gz
  RAW/aneurysm_seg.csv   (subset, id, hospital, cta_img_file, aneurysm_seg_file; may be missing)""",
        signs=("**/cta_img/*.nii*", "**/ane_seg/*.nii*"),
        read=read_cta_a,
    ),
)
