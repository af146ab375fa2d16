"""The ground floor: the box convention of the whole project, and the arithmetic on boxes."""

from __future__ import annotations

from medpretrain3d.boxes.convention import Detections, Targets, box_volume, clip_boxes
from medpretrain3d.boxes.overlap import box_iou, generalized_box_iou, paired_iou
from medpretrain3d.boxes.suppression import classwise_nms, covered_by, nms, suppress

__all__ = [
    "Detections",
    "Targets",
    "box_iou",
    "box_volume",
    "classwise_nms",
    "clip_boxes",
    "covered_by",
    "generalized_box_iou",
    "nms",
    "paired_iou",
    "suppress",
]
