"""The protocol that fits the objects of a data set: boxes by overlap, points by distance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from medpretrain3d.boxes import Detections, Targets
from medpretrain3d.evaluation.bootstrap import NUM_BOOTSTRAP, Resampling
from medpretrain3d.evaluation.cases import PredictedCase, TargetCase
from medpretrain3d.evaluation.center_distance import Criterion, center
from medpretrain3d.evaluation.data_set import count_target_points
from medpretrain3d.evaluation.detection import MAP_KEY, Compat, ap_key, ar_key, evaluate, froc_score_key
from medpretrain3d.evaluation.tables import center_table, detection_table

ProtocolName = Literal["detection", "centre"]


@dataclass(frozen=True)
class ObjectProtocol:
    """A protocol of `medpretrain3d evaluate` that scores objects, and what a run watches of it."""

    name: ProtocolName
    watched: Mapping[str, str]
    """Keys of the result by short names, the primary metric first."""
    table: Callable[[Mapping[str, Any]], list[str]]
    """The lines that are printed of a result."""
    tested: Mapping[str, str] = field(default_factory=dict)
    """Further keys that trackers are told of the test alone, by short names."""

    @property
    def tracked(self) -> dict[str, str]:
        """Keys of the numbers over all classes that trackers are told of a test, by the names they have there."""
        return {**self.watched, **self.tested}

    @property
    def primary(self) -> str:
        """Short name of the metric by which weights are chosen."""
        return next(iter(self.watched))

    def score(
        self,
        found: Sequence[PredictedCase | Detections],
        wanted: Sequence[TargetCase | Targets],
        classes: Sequence[str],
        num_bootstrap: int = NUM_BOOTSTRAP,
        size_edges_mm: Sequence[float] = (),
        compat: Compat = "none",
        criterion: Criterion = "radius",
    ) -> dict[str, Any]:
        """Return the result, boxes in mm.

        Size strata and `compat`, see `evaluate`, are of overlap alone; `criterion`, see `center`, of distance alone.

        Raises:
            UserError: see `evaluate` and `center`.
        """
        if self.name == "centre":
            return center(found, wanted, classes, criterion, Resampling(num_bootstrap))
        return evaluate(found, wanted, classes, num_bootstrap=num_bootstrap, size_edges_mm=size_edges_mm, compat=compat)


DETECTION = ObjectProtocol(
    "detection",
    {"mAP": MAP_KEY, "AP10": ap_key(0.1), "AP50": ap_key(0.5), "FROC10": froc_score_key(0.1)},
    detection_table,
    {"AR10": ar_key(0.1), "AR50": ar_key(0.5)},
)
CENTER = ObjectProtocol("centre", {"AP_center": "AP", "CPM": "FROC_score"}, center_table)
PROTOCOLS: Mapping[ProtocolName, ObjectProtocol] = {one.name: one for one in (DETECTION, CENTER)}


def protocol_of(targets: Sequence[TargetCase | Targets], is_by_distance: bool = False) -> ObjectProtocol:
    """Return `CENTER` where any object is a point, or where boxes shall be scored by distance too, else `DETECTION`."""
    return CENTER if is_by_distance or count_target_points(targets)[0] else DETECTION
