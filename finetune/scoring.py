"""From whole-volume detections to numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medpretrain3d.boxes import Detections
from medpretrain3d.evaluation import PredictedCase, TargetCase
from medpretrain3d.evaluation.protocols import ObjectProtocol
from medpretrain3d.store.grid import Spacing
from medpretrain3d.store.store import Case


@dataclass(frozen=True)
class CaseResult:
    """Predictions and ground truth of one volume, in voxels of its store."""

    predicted: PredictedCase
    target: TargetCase
    spacing_mm: Spacing

    @staticmethod
    def of(case: Case, found: Detections) -> CaseResult:
        """Pair a case with its detections; plain arrays, so that processes can send it to each other."""
        predicted = PredictedCase(case.id, found.boxes.numpy(), found.scores.numpy(), found.labels.numpy())
        patient = case.sidecar["patient"]
        target = TargetCase(case.id, case.boxes, case.labels, case.ignore_boxes, patient=patient)
        return CaseResult(predicted, target, case.grid.spacing_mm)

    def in_mm(self) -> CaseResult:
        """Return the same in millimetres along the volume's axes, x, y, z: overlaps stay, and sizes get a meaning."""
        edges_mm = np.tile(self.spacing_mm, 2)

        def xyz_mm(boxes: np.ndarray) -> np.ndarray:
            scaled: np.ndarray = boxes * edges_mm
            return scaled[:, [2, 1, 0, 5, 4, 3]]  # volumes of a store have axes (S, P, L)

        predicted = replace(self.predicted, boxes=xyz_mm(self.predicted.boxes))
        ignore = None if self.target.ignore is None else xyz_mm(self.target.ignore)
        target = replace(self.target, boxes=xyz_mm(self.target.boxes), ignore=ignore)
        return CaseResult(predicted, target, (1.0, 1.0, 1.0))


def evaluate_results(
    results: Mapping[str, CaseResult], classes: Sequence[str], protocol: ObjectProtocol
) -> dict[str, float]:
    """Return the watched metrics over all volumes."""
    # Overlaps are the same in voxels, distances are not.
    placed = [result.in_mm() if protocol.name == "centre" else result for result in results.values()]
    predicted, targets = [one.predicted for one in placed], [one.target for one in placed]
    return logged_metrics(protocol.score(predicted, targets, classes, num_bootstrap=0), protocol)


def logged_metrics(metrics: Mapping[str, Any], protocol: ObjectProtocol) -> dict[str, float]:
    """Return the watched numbers of an evaluation by their short names; nan where there was no object to find."""
    watched = {name: float(metrics[key]) for name, key in protocol.watched.items()}
    if not sum(metrics["num_targets"].values()):
        return watched
    return {name: float(np.nan_to_num(value)) for name, value in watched.items()}  # FROC is nan where nothing was hit
