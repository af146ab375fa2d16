"""Cases of a store as the dictionaries of MONAI's detection, and its boxes as our predictions.

MONAI's standard mode is (x0, y0, z0, x1, y1, z1) in indices of the image's own three axes, edges half-open: given a
stored volume (D, H, W) as it is, that is the box convention of this package, and nothing is added or exchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medpretrain3d.boxes import Detections
from medpretrain3d.inference import Prediction
from medpretrain3d.store.case import Case
from medpretrain3d.store.normalization import Normalization

IMAGE, BOX, LABEL = "image", "box", "label"
SCORE = f"{LABEL}_scores"
"""Key under which the detector returns scores."""


@dataclass(frozen=True)
class MonaiCases:
    """Makes dictionaries of cases.

    Args:
        normalization: from stored intensities to the network's input.
    """

    normalization: Normalization

    def to_monai(self, case: Case) -> dict[str, Tensor]:
        """Return image (C, D, H, W) float32, boxes (N, 6) float32 in voxels, and labels (N,) int64."""
        image = self.normalization.fitted_to(case)(case.read_image())
        return {
            IMAGE: torch.from_numpy(image),
            BOX: torch.from_numpy(case.boxes.copy()),
            LABEL: torch.from_numpy(case.labels.copy()),
        }


def to_prediction(case: Case, found: Mapping[str, Tensor]) -> Prediction:
    """Return what MONAI's detector found in a whole volume, in voxels of the scan's file and in LPS mm."""
    detections = Detections(found[BOX].float().cpu(), found[SCORE].float().cpu(), found[LABEL].cpu())
    return Prediction.of(case.id, detections, case.grid, case.source_grid, case.source_file)
