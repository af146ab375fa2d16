"""Scans with a JSON file of boxes in the manner of COCO, with a third axis.

RAW/annotations.json
    images       [{"id": 1, "file_name": "a.nii.gz", "patient": "p1", "split": "val"}]   the last two may be missing
    categories   [{"id": 1, "name": "nodule"}]
    annotations  [{"image_id": 1, "category_id": 1, "bbox": [x, y, z, width, height, depth], "iscrowd": 0}]
    frame        "voxels" (as COCO; voxels of the file's own array), "lps_mm" or "ras_mm"; missing is "voxels"

As in COCO, `iscrowd` 1 (or `ignore`, as others write it) marks a region in which finding something is ignored. An image
without annotations is a case without objects. A DICOM series is named by its folder or by any file of it; images that
name files of one series are one case.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.annotations import BoxAnnotation
from medpretrain3d.ingest.importers.base import RawCase, RawDataset
from medpretrain3d.ingest.importers.files import flag, read_json
from medpretrain3d.ingest.importers.layout import Layout, require
from medpretrain3d.ingest.importers.named_scans import NamedScans

FILE = "annotations.json"
SPLITS = ("train", "val", "test")
FRAMES = ("voxels", "lps_mm", "ras_mm")


def read_coco(raw: Path) -> RawDataset:
    """Read the layout.

    Raises:
        UserError: an entry lacks a key, a box has not six numbers, or a path leads out of the folder.
    """
    path = require(raw / FILE)
    document = read_json(path)
    try:
        frame = document.get("frame", "voxels")
        if frame not in FRAMES:
            raise UserError(f"{path}: frame is {frame!r}, wanted one of {', '.join(FRAMES)}")
        categories = sorted(document["categories"], key=lambda category: category["id"])
        for what, values in (
            ("categories of the name", [str(category["name"]) for category in categories]),
            ("categories of the id", [category["id"] for category in categories]),
            ("images of the id", [image["id"] for image in document["images"]]),
            ("images of the file", [image["file_name"] for image in document["images"]]),
        ):
            again = [value for value, count in Counter(values).items() if count > 1]
            if again:
                raise UserError(f"{path}: several {what} {again[0]!r}; keep one")
        label_of = {category["id"]: label for label, category in enumerate(categories)}
        annotations_of: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
        for annotation in document["annotations"]:
            annotations_of[annotation["image_id"]].append(annotation)
        scans = NamedScans(raw)
        paths = [scans.path(image["file_name"]) for image in document["images"]]
        case_of = scans.cases(paths)
        images_of: dict[Path, tuple[RawCase, list[Mapping[str, Any]]]] = {}
        for image, place in zip(document["images"], paths, strict=True):
            case = case_of[place]
            images_of.setdefault(case.images[0], (case, []))[1].append(image)
        cases = []
        for case, images in images_of.values():
            annotations = [one for image in images for one in annotations_of.pop(image["id"], [])]
            cases.append(_case(path, case, images, annotations, label_of, frame))
        if annotations_of:
            raise UserError(f"{path}: annotations of image {next(iter(annotations_of))}, which `images` does not list")
        names = tuple(str(category["name"]) for category in categories)
        return RawDataset(names, tuple(cases), tables=(path,))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: an entry is not as COCO has it ({error!r}); see docs/datasets.md#coco") from error


def _case(
    file: Path,
    scan: RawCase,
    images: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    label_of: Mapping[Any, int],
    frame: str,
) -> RawCase:
    for one in annotations:
        if one["category_id"] not in label_of:
            raise UserError(f"{file}: category {one['category_id']!r} of an annotation is not in `categories`")
    name, split = images[0]["file_name"], str(images[0].get("split") or "train")
    if split not in SPLITS:
        raise UserError(f"{file}: {name} is in split {split!r}, wanted {', '.join(SPLITS)}")
    for image in images[1:]:
        for key in ("patient", "split"):
            if image.get(key) != images[0].get(key):
                values = f"{images[0].get(key)!r} and {image.get(key)!r}"
                raise UserError(
                    f"{file}: {name} and {image['file_name']} are of one scan and of {key} {values}; keep one"
                )
    boxes_of_case = [
        (_mark(one["bbox"], label_of[one["category_id"]], frame), _is_region(file, one)) for one in annotations
    ]
    patient = images[0].get("patient")
    return replace(
        scan,
        annotations=tuple(box for box, is_region in boxes_of_case if not is_region),
        ignore=tuple(box for box, is_region in boxes_of_case if is_region),
        patient=scan.patient if patient is None else str(patient),
        split=split,
        problem="" if scan.images[0].exists() else f"{FILE} names {name}, which is not there",
    )


def _is_region(file: Path, annotation: Mapping[str, Any]) -> bool:
    """Return whether finding something there is ignored: `iscrowd` of COCO, or the `ignore` that others write."""
    return any(flag(annotation.get(key), f"{file}: {key}") for key in ("iscrowd", "ignore"))


def _mark(bbox: list[float], label: int, frame: str) -> BoxAnnotation:
    x, y, z, width, height, depth = (float(value) for value in bbox)
    if not math.isfinite(x + y + z + width + height + depth):
        raise ValueError(f"bbox {bbox} is not finite")
    if frame == "ras_mm":  # x and y point the other way
        x, y = -x - width, -y - height
    return BoxAnnotation(
        (x, y, z), (x + width, y + height, z + depth), "voxels" if frame == "voxels" else "lps_mm", label
    )


def _contradiction(raw: Path) -> str:
    document = read_json(raw / FILE)
    is_ours = isinstance(document, dict) and {"images", "categories", "annotations"} & set(document)
    return "" if is_ours else f"{FILE} has neither images, categories nor annotations"


LAYOUTS = (
    Layout(
        name="coco",
        kind="generic",
        is_described=True,
        classes=(),
        licence="as the data",
        wanted="""  RAW/annotations.json   (images, categories, annotations with bbox [x, y, z, width, height, depth])
  RAW/**                 (the scans it names)""",
        patterns=("annotations.json",),
        read=read_coco,
        contradiction=_contradiction,
        page="""\
Scans and a JSON file in the manner of COCO with a third axis.

```
RAW/annotations.json
  images       [{"id": 1, "file_name": "a.nii.gz", "patient": "p1", "split": "val"}]
  categories   [{"id": 1, "name": "nodule"}]
  annotations  [{"image_id": 1, "category_id": 1, "bbox": [x, y, z, width, height, depth], "iscrowd": 0}]
  frame        "voxels" (default), "lps_mm" or "ras_mm"
```

`patient` and `split` may be missing. `iscrowd` 1 (or `ignore`) is an ignore region, an image without annotations a
negative. A DICOM series is named by its folder or by any of its files; images that name files of one series are one
case.""",
    ),
)
