"""Thresholds of a prediction that is read: which boxes are shown, and whether a scan is called positive."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from medpretrain3d.inference.prediction import Prediction


@dataclass(frozen=True)
class Thresholds:
    """The least score of a box of each class, and of the best box of a scan that is called positive.

    Example:
        >>> import numpy as np
        >>> from medpretrain3d.inference import Prediction
        >>> from medpretrain3d.inference.thresholds import Thresholds
        >>> from medpretrain3d.store import Grid
        >>> boxes, grid = np.array([[1.0, 1, 1, 3, 3, 3], [4, 4, 4, 6, 6, 6]]), Grid((8, 8, 8), np.eye(4))
        >>> found = Prediction("scan", grid, boxes, grid.boxes_to_lps_mm(boxes), np.array([0.9, 0.4]), np.array([0, 1]))
        >>> shown = Thresholds((0.5, 0.5), case=0.95).applied(found)
        >>> len(shown), shown.is_positive
        (1, False)
    """

    by_class: tuple[float, ...]
    case: float | None = None
    """None: a scan is positive where a box is shown."""

    def applied(self, prediction: Prediction) -> Prediction:
        """Return the boxes that are shown, with masks of these alone, and the call of the scan."""
        kept = prediction.scores >= np.array(self.by_class, dtype=np.float64)[prediction.labels]
        best = float(prediction.scores.max(initial=0.0))
        instances = prediction.instances
        if instances is not None:
            number = np.zeros(len(kept) + 1, instances.dtype)
            number[1:][kept] = np.arange(1, int(kept.sum()) + 1)
            instances = number[instances]
        return dataclasses.replace(
            prediction,
            boxes_vox=prediction.boxes_vox[kept],
            boxes_lps_mm=prediction.boxes_lps_mm[kept],
            scores=prediction.scores[kept],
            labels=prediction.labels[kept],
            instances=instances,
            case_score=best,
            is_positive=bool(kept.any()) if self.case is None else best >= self.case,
        )
