"""The ground floor: the box convention of the whole project, and the arithmetic on boxes."""

from __future__ import annotations

from medpretrain3d.boxes.arithmetic import (
    box_center,
    box_size,
    box_volume,
    clip_boxes,
    corners_of,
    has_extent,
    mirror_boxes,
)
from medpretrain3d.boxes.convention import Detections, Targets
from medpretrain3d.boxes.distance import cut_about_center, is_point, suppress_by_distance
from medpretrain3d.boxes.overlap import box_iou, generalized_box_iou, paired_iou
from medpretrain3d.boxes.suppression import batched_nms, classwise_nms, covered_by, nms, suppress

__all__ = [
    "Detections",
    "Targets",
    "batched_nms",
    "box_center",
    "box_iou",
    "box_size",
    "box_volume",
    "classwise_nms",
    "clip_boxes",
    "corners_of",
    "covered_by",
    "cut_about_center",
    "generalized_box_iou",
    "has_extent",
    "is_point",
    "mirror_boxes",
    "nms",
    "paired_iou",
    "suppress",
    "suppress_by_distance",
]
