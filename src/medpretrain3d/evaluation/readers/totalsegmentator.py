"""TotalSegmentator's folders: a mask per structure, called like its class.

<case>/<class>.nii.gz                 as the program writes them
<case>/segmentations/<class>.nii.gz   as its data set has them
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.cases import PredictedCase
from medpretrain3d.evaluation.files import PredictionFile, TargetFile
from medpretrain3d.evaluation.readers.components import found_objects, left_out_notes
from medpretrain3d.evaluation.readers.options import ReadOptions
from medpretrain3d.evaluation.readers.placed import check_cases, check_world, placed_case, prediction_file
from medpretrain3d.store.readers import find_volumes, read_scan, volume_stem

ADVICE = "give the folder above those that TotalSegmentator wrote, one per scan, called like the case"


def mask_folders(folder: Path) -> dict[str, Path]:
    """Return the folder of masks of each case."""
    found = {}
    for inner in sorted(folder.iterdir()) if folder.is_dir() else []:
        masks = inner / "segmentations" if (inner / "segmentations").is_dir() else inner
        if inner.is_dir() and not inner.name.startswith(".") and find_volumes(masks):
            found[inner.name] = masks
    return found


def read_totalsegmentator(path: Path, targets: TargetFile, options: ReadOptions) -> PredictionFile:
    """Read the masks of the targets' classes; each is one object, or with `objects` components several.

    Raises:
        UserError: no masks, other scans than those of the targets, or no mask of any class.
    """
    folders = mask_folders(path)
    if not folders:
        raise UserError(f"{path}: holds no folder of masks; {ADVICE}")
    check_cases(path, folders, targets, options.is_part)
    check_world(path, targets)
    cases, num_small = [], 0
    seen: set[str] = set()
    for case in (one.case for one in targets.cases):
        masks = {volume_stem(file): file for file in find_volumes(folders[case])}
        seen |= masks.keys() & set(targets.classes)
        one, small = _read_case(folders[case], case, masks, targets, options)
        cases.append(one)
        num_small += small
    if not seen:
        raise UserError(
            f"{path}: no mask is called like one of the classes {list(targets.classes)} of {targets.path}; rename the "
            "masks, or the classes of the targets"
        )
    absent = [name for name in targets.classes if name not in seen]
    notes = ["TotalSegmentator gives no scores: every score is 1, and AP has one operating point"]
    notes += [f"classes without a mask in any scan, never found: {', '.join(absent)}"] * bool(absent)
    return prediction_file(path, cases, targets, [*notes, *left_out_notes(num_small, options.min_voxels)])


def _read_case(
    folder: Path, case: str, masks: dict[str, Path], targets: TargetFile, options: ReadOptions
) -> tuple[PredictedCase, int]:
    boxes, scores, labels = [np.zeros((0, 6))], [np.zeros(0)], [np.zeros(0, np.int64)]
    num_small, grid = 0, None
    for label, name in enumerate(targets.classes):
        if name not in masks:
            continue
        scan = read_scan(masks[name])
        scan.check_single_channel()
        grid = scan.grid if grid is None else grid
        voxels = scan.in_order_of(grid)
        if voxels is None:
            raise UserError(f"{masks[name]}: lies on another grid than the masks beside it; write all on one")
        inside = (voxels[0] > 0).astype(np.uint16)
        found = found_objects(inside, {1: label}, options.objects or "labels", options.min_voxels)
        boxes.append(found.boxes_vox)
        scores.append(found.scores)
        labels.append(found.labels)
        num_small += found.num_small
    place = grid if grid is not None else read_scan(next(iter(masks.values()))).grid
    found_all = np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels)
    return placed_case(folder, case, *found_all, targets, place), num_small
