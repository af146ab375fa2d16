"""PN9: 40,439 lung nodules in 8,798 CTs, given as boxes (Mei et al., 2021).

The scans are published as arrays of grey values from 0 to 255 at 1 x 1 x 1 mm. They are turned back into HU by the
window -1200 to 600 of the lung, which is an assumption: the release does not state its window. What lay outside it is
lost. Boxes name their first and last voxel, both inside.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from medpretrain3d.documents import read_text
from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.annotations import BoxAnnotation, ObjectAnnotation
from medpretrain3d.ingest.importers.base import Leftover, RawCase, RawDataset
from medpretrain3d.ingest.importers.files import find_files, number, read_csv
from medpretrain3d.ingest.importers.ids import ScanIds
from medpretrain3d.ingest.importers.layout import Layout, Misplaced, require
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.volume import Volume

WINDOW_HU = (-1200.0, 600.0)
SPLIT_FILES = {"train": "train.txt", "val": "val.txt", "test": "test.txt"}
FOLDER = "split_full_with_nodule_9classes"
EDGES = ("xmin", "ymin", "zmin", "xmax", "ymax", "zmax")


def read_pn9(raw: Path) -> RawDataset:
    """Read the layout.

    Raises:
        Misplaced: a table or the arrays are missing.
        UserError: a damaged table.
    """
    tables = raw / FOLDER if (raw / FOLDER).is_dir() else raw
    arrays = {path.name.removesuffix("_zoom.npy"): path for path in find_files(raw, "*_zoom.npy")}
    if not arrays:
        raise Misplaced("no array <pid>_zoom.npy")
    lists = {split: require(tables / name) for split, name in SPLIT_FILES.items()}
    split_of: dict[str, str] = {}
    for split, path in lists.items():
        for pid in read_text(path, "give one pid per line").split():
            if split_of.setdefault(pid, split) != split:
                raise UserError(f"{path}: names {pid}, which {SPLIT_FILES[split_of[pid]]} names as well; keep one")
    scans, leftovers = ScanIds(split_of), [Leftover(pid, "arrays that no split file names") for pid in arrays]
    boxes: dict[str, list[ObjectAnnotation]] = defaultdict(list)
    annotations = [require(tables / name) for name in ("train_anno.csv", "test_anno.csv")]
    for table in annotations:
        rows = read_csv(table, ["pid", *EDGES])
        scan_of, unmet = scans.meet(table, [row["pid"] for row in rows])
        leftovers += unmet
        for row in rows:
            x0, y0, z0, x1, y1, z1 = (number(table, row, column) for column in EDGES)
            # A row of zeros is a scan without nodules.
            if any((x0, y0, z0, x1, y1, z1)) and row["pid"] in scan_of:
                # The array is (z, y, x), and voxels of a file are counted in the order of its array.
                boxes[scan_of[row["pid"]]].append(BoxAnnotation((z0, y0, x0), (z1 + 1, y1 + 1, x1 + 1), "voxels"))
    cases = []
    for pid, split in split_of.items():
        problem = "" if pid in arrays else f"{SPLIT_FILES[split]} lists it, but there is no {pid}_zoom.npy"
        images = (arrays[pid],) if pid in arrays else ()
        cases.append(
            RawCase(pid, images, annotations=tuple(boxes[pid]), split=split, problem=problem, reader=read_array)
        )
    leftovers = [one for one in leftovers if one.what not in split_of]
    return RawDataset(
        ("nodule",),
        tuple(cases),
        channel_names=("CT",),
        tables=(*annotations, *lists.values()),
        leftovers=tuple(leftovers),
    )


def read_array(path: Path) -> Volume:
    """Return one scan: grey values (1, D, H, W) or (D, H, W) at 1 mm, taken as running to superior, posterior and left.

    Raises:
        UserError: the file is no such array; a pickled one is refused, for it could run code.
    """
    try:
        # Mapped, so that a header which claims 10^12 voxels is measured against the file.
        grey = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(grey, np.ndarray) or grey.dtype.kind not in "iuf":
            raise ValueError("wanted numbers")
    except Exception as error:  # NumPy evaluates the header as Python, which fails in as many ways as there are
        raise UserError(f"{path}: is no plain .npy array ({str(error)[:200]}); unpack it again") from error
    grey = grey[0] if grey.ndim == 4 and len(grey) == 1 else grey
    if grey.ndim != 3 or grey.size == 0 or not (grey.min() >= 0 and grey.max() <= 255):
        raise UserError(f"{path}: got shape {grey.shape}, wanted grey values 0 to 255 of shape (1, D, H, W)")
    low_hu, high_hu = WINDOW_HU
    hu = np.maximum(np.rint(low_hu + grey.astype(np.float32) * ((high_hu - low_hu) / 255)), -1024).astype(np.int16)
    # The release says nothing of the patient's place: the middle of the first voxel is put at 0 mm.
    grid = Grid((hu.shape[0], hu.shape[1], hu.shape[2]), np.eye(4)[[2, 1, 0, 3]])
    return Volume(hu[None], grid, grid)


LAYOUTS = (
    Layout(
        name="pn9",
        kind="detection",
        classes=("nodule",),
        licence="non-commercial research only",
        wanted=f"""  RAW/**/<pid>_zoom.npy                                  (the archive of .npy files, unpacked)
  RAW/{FOLDER}/train_anno.csv, test_anno.csv
  RAW/{FOLDER}/train.txt, val.txt, test.txt   (RAW itself will do)""",
        patterns=("**/train_anno.csv", "**/test_anno.csv"),
        read=read_pn9,
        page="""\
40,439 lung nodules in 8,798 CTs (Mei et al., 2021), given as boxes. Nine kinds of nodule, used as one class.
Get it: the authors' repository, mj129/SANet, names the archives; take the .npy files.
Licence: non-commercial research only.
Errata: published at 1 mm as grey values 0 to 255. The window is not stated; -1200 to 600 HU is assumed, as is that
the axes run to superior, posterior and left. The authors' own code leaves out 09184, 05181, 07121, 00805 and 08832 in
training. Nodules that other sets would draw as one are at times listed as two on neighbouring slices.

```
RAW/**/00000_zoom.npy                                        (1, D, H, W)
RAW/split_full_with_nodule_9classes/train_anno.csv           pid,nodule_class,xmin,xmax,ymin,ymax,zmin,zmax,...
RAW/split_full_with_nodule_9classes/test_anno.csv
RAW/split_full_with_nodule_9classes/train.txt, val.txt, test.txt
```""",
    ),
)
