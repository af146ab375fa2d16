"""Predictions of any program, by what lies at a path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from medpretrain3d.documents import LARGE, read_json
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.files import PredictionFile, TargetFile, read_predictions
from medpretrain3d.evaluation.readers.monai import TORCH_ENDINGS, is_list_of_scans, read_monai
from medpretrain3d.evaluation.readers.nndetection import box_files, read_nndetection
from medpretrain3d.evaluation.readers.nnunet import read_nnunet
from medpretrain3d.evaluation.readers.options import PredictionFormat, ReadOptions
from medpretrain3d.evaluation.readers.totalsegmentator import mask_folders, read_totalsegmentator

OURS = "predictions.json"
"""Of `predict`, in a folder of what else it wrote."""
Reader = Callable[[Path, TargetFile, ReadOptions], PredictionFile]


def _read_ours(path: Path, targets: TargetFile, options: ReadOptions) -> PredictionFile:
    file = read_predictions(path / OURS if path.is_dir() else path, options.convention)
    if not options.is_part:
        return file
    wanted = {case.case for case in targets.cases}
    return replace(file, cases=tuple(case for case in file.cases if case.case in wanted))


READERS: dict[PredictionFormat, Reader] = {
    "medpretrain3d": _read_ours,
    "nndetection": read_nndetection,
    "monai": read_monai,
    "nnunet": read_nnunet,
    "totalsegmentator": read_totalsegmentator,
}


def read_any_predictions(path: Path, targets: TargetFile, options: ReadOptions | None = None) -> PredictionFile:
    """Read what was found, from the file or folder of any program.

    Args:
        path: a JSON file of this project or MONAI's, MONAI's `torch.save`, or a folder of nnDetection, nnU-Net or
            TotalSegmentator.
        targets: what was to be found, whose classes, scans and grids the predictions of others are read by.
        options: what they leave open.

    Raises:
        UserError: nothing there, of no known kind, or what its reader refuses.

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from medpretrain3d.evaluation import TargetCase, TargetFile
        >>> from medpretrain3d.evaluation.readers import ReadOptions, read_any_predictions
        >>> import numpy as np
        >>> box = np.array([[0.0, 0, 0, 4, 4, 4]])
        >>> cases = (TargetCase("scan", box, labels=np.array([0])),)
        >>> targets = TargetFile(Path("targets.json"), ("nodule",), "lps_mm", None, True, cases)
        >>> entry = {"image": "scan.nii.gz", "box": [[2, 2, 2, 4, 4, 4]], "label": [0], "label_scores": [0.9]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "result.json"
        ...     _ = path.write_text(json.dumps({"validation": [entry]}))
        ...     found = read_any_predictions(path, targets, ReadOptions(box_mode="cccwhd", box_frame="lps_mm"))
        >>> found.cases[0].boxes
        array([[0., 0., 0., 4., 4., 4.]])
    """
    options = options or ReadOptions()
    return READERS[options.format or format_of(path)](Path(path), targets, options)


def format_of(path: Path) -> PredictionFormat:
    """Return of which program the predictions at a path are.

    Raises:
        UserError: a folder that is none of a known program.
    """
    path = Path(path)
    if path.suffix in TORCH_ENDINGS:
        return "monai"
    if box_files(path):
        return "nndetection"
    if (path / OURS).is_file():
        return "medpretrain3d"
    if not path.is_dir():
        return "monai" if path.suffix == ".json" and _is_of_monai(path) else "medpretrain3d"
    from medpretrain3d.store.readers import find_volumes

    if find_volumes(path):
        return "nnunet"
    if mask_folders(path):
        return "totalsegmentator"
    raise UserError(
        f"{path}: holds no predictions of a known program; wanted <case>_boxes.pkl (nnDetection), <case>.nii.gz "
        "(nnU-Net) or <case>/<class>.nii.gz (TotalSegmentator)"
    )


def _is_of_monai(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            if b'"classes"' in file.read(2**16):  # ours names its classes first, and may be large
                return False
        return is_list_of_scans(read_json(path, object, "", LARGE, allow_nan=True))
    except (OSError, UserError):
        return False  # its reader says what is wrong
