"""nnDetection's predicted boxes: `<case>_boxes.pkl`, or the same arrays as `.npz`.

    pred_boxes (N, 6), pred_scores (N,), pred_labels (N,), restore, itk_origin, itk_spacing, itk_direction,
    original_size_of_raw_data

Axes are those of an array that SimpleITK reads, the reverse of the file's; a box is (a0, b0, a1, b1, c0, c1).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.cases import PredictedCase
from medpretrain3d.evaluation.files import PredictionFile, TargetFile, half_open
from medpretrain3d.evaluation.readers.npz import read_npz
from medpretrain3d.evaluation.readers.numpy_pickle import read_numpy_pickle
from medpretrain3d.evaluation.readers.options import ReadOptions
from medpretrain3d.evaluation.readers.placed import check_cases, check_world, placed_case, prediction_file
from medpretrain3d.store.grid import Grid

ENDINGS = ("_boxes.pkl", "_boxes.npz")
NEEDED = ("pred_boxes", "pred_scores", "pred_labels")
GEOMETRY = ("itk_origin", "itk_spacing", "itk_direction", "original_size_of_raw_data")
ADVICE = "give the folder of <case>_boxes.pkl that nnDetection's prediction wrote"
FILE_ORDER = (4, 1, 0, 5, 3, 2)
"""Where (i0, j0, k0, i1, j1, k1) of the file stand in nnDetection's six numbers."""
GROWN = (
    "nnDetection makes boxes of masks as [min - 1, max + 1], a voxel too long, and its detectors learn them so; they "
    "are scored as written, --boxes nndetection takes that voxel away"
)


def box_files(place: Path) -> dict[str, Path]:
    """Return the files of boxes in a folder, or the one at a path, by case.

    Raises:
        UserError: a case has two.
    """
    files: dict[str, Path] = {}
    for path in sorted(place.iterdir()) if place.is_dir() else [place]:
        ending = next((one for one in ENDINGS if path.name.endswith(one)), None)
        if ending is None or path.name.startswith("."):
            continue
        case = path.name.removesuffix(ending)
        if case in files:
            raise UserError(f"{files[case]} and {path} are both of case '{case}'; keep one")
        files[case] = path
    return files


def read_nndetection(path: Path, targets: TargetFile, options: ReadOptions) -> PredictionFile:
    """Read a folder of boxes.

    Raises:
        UserError: no such files, other scans than those of the targets, a pickle that would run code, boxes that were
            not carried back to the scan, or a box, score or label is wrong.
    """
    files = box_files(path)
    if not files:
        raise UserError(f"{path}: holds no <case>_boxes.pkl; {ADVICE}")
    check_cases(path, files, targets, options.is_part)
    check_world(path, targets)
    cases = [_read_case(case, files[case], targets, options) for case in (one.case for one in targets.cases)]
    return prediction_file(path, cases, targets, () if options.convention == "nndetection" else (GROWN,))


def _read_case(case: str, path: Path, targets: TargetFile, options: ReadOptions) -> PredictedCase:
    content = read_npz(path, ADVICE) if path.suffix == ".npz" else read_numpy_pickle(path, ADVICE)
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, wanted pred_boxes, pred_scores, pred_labels")
    missing = [name for name in NEEDED if name not in content]
    if missing:
        raise UserError(f"{path}: has no {missing[0]}; {ADVICE}")
    if not bool(_array(path, "restore", content.get("restore", True)).all()):
        raise UserError(
            f"{path}: boxes are in voxels of nnDetection's resampled scan (restore is False), of which the file does "
            "not say the place; predict with restore, as nndet_predict does"
        )
    boxes, scores, labels = (_array(path, name, content[name]) for name in NEEDED)
    boxes = boxes.reshape(-1, 6) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 6:
        raise UserError(f"{path}: pred_boxes has shape {boxes.shape}, wanted (N, 6)")
    boxes_vox = half_open(boxes[:, FILE_ORDER], options.convention)
    grid = _grid(path, content) if all(name in content for name in GEOMETRY) else targets.grids.get(case)
    if grid is None:
        raise UserError(f"{path}: has no {GEOMETRY[0]} ..., and {targets.path} no grid of '{case}'; give either")
    return placed_case(path, case, boxes_vox, scores.reshape(-1), labels.reshape(-1), targets, grid)


def _grid(path: Path, content: Mapping[str, Any]) -> Grid:
    """Return the grid of the scan's file: ITK's numbers are in the order (x, y, z), its size in that of an array."""
    origin, spacing, direction, size = (_array(path, name, content[name]) for name in GEOMETRY)
    affine = np.eye(4)
    try:
        affine[:3, :3] = direction.reshape(3, 3) * spacing.reshape(3)
        affine[:3, 3] = origin.reshape(3)
        k, j, i = (int(one) for one in size.reshape(3))
        return Grid((i, j, k), affine)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path}: itk_origin, itk_spacing and itk_direction are no grid ({error}); {ADVICE}") from error


def _array(path: Path, name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"an array of {array.dtype}")
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {name} are no numbers ({error}); {ADVICE}") from error
