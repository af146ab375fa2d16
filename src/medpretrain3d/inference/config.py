"""Inference settings: tiling of a volume, mirrored views, and merging of the detections into one list of boxes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, get_args

from pydantic import with_config
from typing_extensions import TypedDict

from medpretrain3d.documents import SCHEMA, Number, Text, Whole, checked
from medpretrain3d.errors import UserError
from medpretrain3d.values import Axis, NonNegative, Positive, PositiveShare, Rows, Share, ShareBelowOne, check_fields

Merge = Literal["nms", "wbc", "distance"]


@with_config({**SCHEMA, "extra": "forbid"})
class _Document(TypedDict):
    overlap: NotRequired[Number]
    merge: NotRequired[Text]
    nms_iou: NotRequired[Number]
    merge_distance_mm: NotRequired[Number]
    score_threshold: NotRequired[Number]
    mirror_axes: NotRequired[list[Whole]]
    max_per_class: NotRequired[Whole]
    border_weight: NotRequired[Number]
    min_size_mm: NotRequired[Number]


@dataclass(frozen=True)
class InferenceConfig:
    """Inference settings: layout and merging of tiles and views.

    Args:
        overlap: least share that a tile has in common with the next. From 0.5 on, every object up to half a
            patch is seen whole by some tile.
        merge: `nms` keeps the best box of an object, `wbc` a weighted mean, `distance` the best of near centers. `wbc`
            is weighted box clustering; `distance` looks at no extent, and is for points.
        nms_iou: IoU above which boxes of a class are one. For `nms` and `wbc`.
        merge_distance_mm: of centers, up to which two boxes of a class are one object, for `distance`.
        score_threshold: detections below it are left out, before and after merging. The default keeps what curves of
            precision or sensitivity need; raise it to read boxes by eye, set 0 for all of them.
        mirror_axes: axes (0 = D, 1 = H, 2 = W) along which mirrored views are seen too. In all combinations: three axes
            cost eight times as much. Leave an axis out if classes differ by side.
        max_per_class: detections returned per class at most.
        border_weight: of a box centred on a tile's border in a merged one, against 1 in the middle. Above 0, so that a
            box which one tile alone saw, right at its border, still has a weighted mean.
        min_size_mm: merged boxes without so long an edge are left out. They count for no `max_per_class`. For `nms` and
            `wbc`.

    Raises:
        UserError: a value outside its range.

    Example:
        >>> from medpretrain3d.inference import InferenceConfig
        >>> InferenceConfig(merge="wbc", mirror_axes=(1, 2)).nms_iou
        0.3
    """

    overlap: ShareBelowOne = 0.5
    merge: Merge = "nms"
    nms_iou: Share = 0.3
    merge_distance_mm: Positive = 5.0
    score_threshold: Share = 0.02
    mirror_axes: tuple[Axis, ...] = ()
    max_per_class: Rows = 100
    border_weight: PositiveShare = 0.1
    min_size_mm: NonNegative = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "mirror_axes", tuple(self.mirror_axes))  # a list where it comes from JSON
        if not 0 <= self.overlap < 1:
            raise UserError(f"overlap {self.overlap}: must be at least 0 and below 1; 0.5 is usual")
        if self.merge not in get_args(Merge):
            raise UserError(f"merge '{self.merge}': must be one of {', '.join(get_args(Merge))}")
        for name in ("nms_iou", "score_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} {getattr(self, name)}: must lie in 0 .. 1")
        if len(set(self.mirror_axes)) != len(self.mirror_axes) or not set(self.mirror_axes) <= {0, 1, 2}:
            raise UserError(f"mirror_axes {self.mirror_axes}: must be different axes out of 0 (D), 1 (H) and 2 (W)")
        if self.max_per_class < 1:
            raise UserError(f"max_per_class {self.max_per_class}: must be at least 1")
        if not 0 < self.border_weight <= 1:
            raise UserError(f"border_weight {self.border_weight}: must be above 0 and at most 1; 1 is no weighting")
        if not self.merge_distance_mm > 0:
            raise UserError(f"merge_distance_mm {self.merge_distance_mm}: must be above 0")
        if not self.min_size_mm >= 0:
            raise UserError(f"min_size_mm {self.min_size_mm}: must be at least 0")

    @staticmethod
    def from_json(document: object) -> InferenceConfig:
        """Invert `dataclasses.asdict`; what has a default may be absent.

        Raises:
            UserError: an unknown key, a value of another type or outside its range.
        """
        known: Any = checked(document, _Document, "inference", "make the file again")
        return InferenceConfig(**known)

    @property
    def keeps_centers(self) -> bool:
        """Whether boxes stand for points: they are cut about their centers, and none is left out for its extents."""
        return self.merge == "distance"

    @property
    def views(self) -> list[tuple[int, ...]]:
        """The axes mirrored in each view, the plain view first."""
        axes = sorted(self.mirror_axes)
        return [view for count in range(len(axes) + 1) for view in itertools.combinations(axes, count)]
