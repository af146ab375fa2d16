"""What predictions of other programs leave open, and a user has to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medpretrain3d.evaluation.files import BoxConvention
from medpretrain3d.evaluation.readers.box_modes import BoxMode

PredictionFormat = Literal["medpretrain3d", "nndetection", "monai", "nnunet", "totalsegmentator"]
BoxFrame = Literal["lps_mm", "ras_mm", "voxels"]
ComponentScore = Literal["max", "mean"]
Objects = Literal["components", "labels"]


@dataclass(frozen=True)
class ReadOptions:
    """How predictions are read.

    Args:
        format: of which program; None finds out.
        convention: of boxes in voxels.
        box_mode: order of the six numbers of MONAI's boxes, which its files do not say.
        box_frame: in which MONAI's boxes are; its files do not say that either.
        component_score: of a component of a label map, from the probabilities of its voxels.
        objects: what of a label map is one object; None is the format's: components for nnU-Net, labels for
            TotalSegmentator.
        min_voxels: smaller objects of a label map are left out, and counted.
        is_part: whether predictions of scans that the targets do not have are left out, as where these are a fold.

    Example:
        >>> from medpretrain3d.evaluation.readers import ReadOptions
        >>> ReadOptions(box_mode="cccwhd", box_frame="lps_mm").component_score
        'max'
    """

    format: PredictionFormat | None = None
    convention: BoxConvention = "half-open"
    box_mode: BoxMode | None = None
    box_frame: BoxFrame | None = None
    component_score: ComponentScore = "max"
    objects: Objects | None = None
    min_voxels: int = 1
    is_part: bool = False
