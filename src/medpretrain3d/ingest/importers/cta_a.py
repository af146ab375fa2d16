"""CTA-A: intracranial aneurysms in CT angiographies, the Large IA Segmentation data set (Bo et al., 2021).

Each connected component of an aneurysm mask is an object. The table of the authors' code says which case is for what.
"""

from __future__ import annotations

from pathlib import Path

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.base import RawCase, RawDataset
from medpretrain3d.ingest.importers.files import below, by_stem, read_csv, twice
from medpretrain3d.ingest.importers.layout import Layout, Misplaced
from medpretrain3d.store.readers import find_volumes

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
    tables = (table,) if table.is_file() else ()
    return RawDataset(("aneurysm",), tuple(cases), channel_names=("CT",), tables=tables)


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
    volumes = find_volumes(raw, recursive=True)
    labels = by_stem(path for path in volumes if path.parent.name == "ane_seg")
    images = by_stem(path for path in volumes if path.parent.name == "cta_img")
    cases = []
    for name in sorted({*images, *labels}):
        missing = next((place for place, of in (("ane_seg", labels), ("cta_img", images)) if name not in of), None)
        problem = f"{missing}/{name}.nii.gz is missing" if missing else ""
        problem = problem or twice(raw, images[name]) or twice(raw, labels[name])
        image = (images[name][0],) if name in images else ()
        cases.append(RawCase(name, image, labels.get(name, [None])[0], {1: 0}, problem=problem))
    return cases if images else []


LAYOUTS = (
    Layout(
        name="cta_a",
        kind="detection",
        classes=("aneurysm",),
        licence="see doi.org/10.5281/zenodo.6801398",
        wanted="""  RAW/cta_img/<id>.nii.gz
  RAW/ane_seg/<id>.nii.gz
  RAW/aneurysm_seg.csv   (subset, id, hospital, cta_img_file, aneurysm_seg_file; may be missing)""",
        patterns=("**/cta_img/*.nii*", "**/ane_seg/*.nii*"),
        read=read_cta_a,
        page="""\
Intracranial aneurysms in CT angiographies, the Large IA Segmentation data set (Bo et al., 2021).
Get it: Zenodo record 6801398.
Licence: as that record says; the code is for non-commercial academic research.
Errata: none known to us. The tree below is that of the authors' code (MeteorsHub/GLIA-Net); the archive itself was
not at hand.

```
RAW/cta_img/P001.nii.gz
RAW/ane_seg/P001.nii.gz
RAW/aneurysm_seg.csv      subset,id,hospital,cta_img_file,aneurysm_seg_file; subset is train, eval or test
```""",
    ),
)
