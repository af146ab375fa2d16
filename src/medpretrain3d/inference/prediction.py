"""Predictions for one scan, in the scan's own voxels and in millimeters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
import torch
from pydantic import Field, with_config
from typing_extensions import TypedDict

from medpretrain3d.boxes import Detections, cut_about_center, has_extent
from medpretrain3d.documents import SCHEMA, Number, Text, Whole
from medpretrain3d.errors import UserError
from medpretrain3d.inference.written_scores import read, written
from medpretrain3d.store.grid import Grid, GridDocument

_Box = Annotated[list[Number], Field(min_length=6, max_length=6)]


@with_config(SCHEMA)
class Entry(TypedDict):
    """Schema of a case's entry in a predictions file."""

    case: Text
    boxes: list[_Box]
    scores: list[Annotated[Number, Field(ge=0, le=1)]]
    labels: list[Whole]
    num_outside: NotRequired[Whole]
    mask_sha256: NotRequired[Text]
    boxes_vox: list[_Box]
    grid: GridDocument


DECIMALS = 4
"""Of coordinates in voxels and in millimetres."""
LEAST_DEPTH_VOX = 0.01
"""Of the center of a box that stands for a point below the scan's faces, so that rounding leaves an extent of it."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """Predictions for one scan, best score first.

    Coordinates are rounded to `DECIMALS` when it is made, as they are in files: what is read back from a file and
    written in another form gives the bytes that the prediction itself gives.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> from medpretrain3d.boxes import Detections
        >>> from medpretrain3d.inference import Prediction
        >>> from medpretrain3d.store import Grid
        >>> grid = Grid(shape=(8, 8, 8), affine_lps=np.diag([2.0, 2, 2, 1]))  # voxels of 2 mm
        >>> found = Detections(torch.tensor([[1.0, 1, 1, 3, 3, 3]]), torch.tensor([0.9]), torch.tensor([0]))
        >>> prediction = Prediction.of("scan", found, grid, source_grid=grid)
        >>> prediction.boxes_lps_mm  # the edge of voxel 1 lies 1 mm before its center
        array([[1., 1., 1., 5., 5., 5.]])
    """

    case: str
    grid: Grid
    """Of the scan's file, in its own array order."""
    boxes_vox: np.ndarray
    """(N, 6) float64 (i0, j0, k0, i1, j1, k1) in the file's own array order, half-open."""
    boxes_lps_mm: np.ndarray
    """(N, 6) float64 (x0, y0, z0, x1, y1, z1): x grows to the patient's left, y to posterior, z to superior."""
    scores: np.ndarray
    """(N,) in [0, 1]."""
    labels: np.ndarray
    """(N,) int64, index into the classes."""
    file: str = ""
    """Name of the scan's file, without folders."""
    instances: np.ndarray | None = None
    """(i, j, k) uint16 in the file's own array order: `n + 1` where the object of box `n` is; None without masks."""
    case_score: float | None = None
    """Highest score of the scan, of boxes below the threshold, too; None where nobody called it."""
    is_positive: bool | None = None
    """Whether the scan is called positive; None where nobody asked."""
    source: tuple[Path, str] | None = None
    """Of a DICOM series: its folder or a file of it, and which series there: writers of DICOM read the headers."""

    num_outside: int | None = None
    """Boxes that were left out because they lie outside of the region that was looked at; None without a region."""
    mask_sha256: str | None = None
    """SHA-256 of the file of the instance map that numbers these boxes; None where there is none."""
    classes: tuple[str, ...] | None = None
    """Name of each label; None where a file knows them for all scans."""

    def __post_init__(self) -> None:
        for name in ("boxes_vox", "boxes_lps_mm"):
            object.__setattr__(self, name, np.round(getattr(self, name), DECIMALS))

    def __len__(self) -> int:
        return len(self.scores)

    @staticmethod
    def of(
        case: str,
        detections: Detections,
        grid: Grid,
        source_grid: Grid,
        file: str = "",
        keeps_centers: bool = False,
    ) -> Prediction:
        """Take detections from the grid they were found on to the scan's file, cut to its extent.

        Args:
            case: id of the scan.
            detections: in voxels of `grid`.
            grid: of the resampled, reoriented volume.
            source_grid: of the file, in its own array order.
            file: name of the scan's file.
            keeps_centers: boxes stand for points: what reaches over the scan's faces is cut about its center, and
                nothing is left out; else boxes are cut at the faces, and those without extent there are gone.
        """
        boxes_vox = grid.map_boxes(detections.boxes.cpu().numpy().astype(np.float64), source_grid)
        # A resampled grid may end a fraction of a voxel behind the file's last voxel.
        if keeps_centers:
            boxes_vox = cut_about_center(torch.from_numpy(boxes_vox), source_grid.shape, LEAST_DEPTH_VOX).numpy()
            kept = np.ones(len(boxes_vox), dtype=bool)
        else:
            boxes_vox = np.clip(boxes_vox, 0, np.tile(source_grid.shape, 2))
            kept = has_extent(np.round(boxes_vox, DECIMALS))  # which may take that of a sliver at the scan's face
        boxes_vox = boxes_vox[kept]
        return Prediction(
            case,
            source_grid,
            boxes_vox,
            source_grid.boxes_to_lps_mm(boxes_vox),
            detections.scores.cpu().numpy()[kept],
            detections.labels.cpu().numpy()[kept],
            file,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the case's entry in a predictions file, from which `from_json` makes the same prediction again, but
        for the call of the scan."""
        is_called = self.is_positive is not None and self.case_score is not None
        case_score = written(np.array([self.case_score], self.scores.dtype))[0] if is_called else None
        call = {"case_score": case_score, "is_positive": self.is_positive} if is_called else {}
        return {
            "case": self.case,
            "boxes": self.boxes_lps_mm.tolist(),
            "scores": written(self.scores),
            "labels": [int(label) for label in self.labels],
            "boxes_vox": self.boxes_vox.tolist(),
            "grid": self.grid.to_json(),
            **call,
            **({} if self.num_outside is None else {"num_outside": self.num_outside}),
            **({} if self.mask_sha256 is None else {"mask_sha256": self.mask_sha256}),
        }

    @staticmethod
    def from_json(entry: Entry, file: str = "") -> Prediction:
        """Invert `to_json`.

        Raises:
            UserError: not one box in voxels, score and label per box, or an impossible grid.
        """
        if len({len(entry[key]) for key in ("boxes", "boxes_vox", "scores", "labels")}) > 1:
            raise UserError(f"case {entry['case']}: boxes, scores and labels are not of one number; predict it again")
        return Prediction(
            entry["case"],
            Grid.from_json(entry["grid"]),
            np.asarray(entry["boxes_vox"], dtype=np.float64).reshape(-1, 6),
            np.asarray(entry["boxes"], dtype=np.float64).reshape(-1, 6),
            read(entry["scores"]),
            np.asarray(entry["labels"], dtype=np.int64),
            file,
            num_outside=entry.get("num_outside"),
            mask_sha256=entry.get("mask_sha256"),
        )
