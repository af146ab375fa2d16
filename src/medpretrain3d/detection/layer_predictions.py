"""What the layers of a detector predict for one set of objects, and what each prediction is given of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from medpretrain3d.detection.base import finite_rows
from medpretrain3d.detection.box_grid import Shape
from medpretrain3d.detection.set_matching import SetAssignment, UnitTargets, hungarian
from medpretrain3d.detection.unit_boxes import from_unit, to_unit


@dataclass(frozen=True)
class LayerPredictions:
    """Predictions of L layers for B images, and the objects that they are to find."""

    logits: Tensor
    """(L, B, Q, K) float32."""
    boxes: Tensor
    """(L, B, Q, 6) unit boxes, float32."""
    targets: Sequence[UnitTargets]
    """Of each image, on the CPU."""
    regions: Tensor
    """(B, M, 6), see `padded_regions`; on the device of the predictions."""
    given: Tensor | None = None
    """(L, B, Q) on the CPU, which object each query is given, as `SetAssignment.of` wants it; None to match them."""

    def finite(self) -> Tensor:
        """Find the predictions that are finite: (L, B, Q) bool, on their device."""
        return finite_rows(self.logits.flatten(0, 2), self.boxes.flatten(0, 2)).view(self.logits.shape[:3])

    def matched(self, costs: Tensor) -> Tensor:
        """Solve the assignment problem of each layer and image: costs (L, B, Q, N) on the CPU -> (L, B, Q)."""
        counts = [len(target.labels) for target in self.targets] * len(costs)
        matrices = zip(costs.flatten(0, 1), counts, strict=True)
        return torch.stack([hungarian(cost[:, :count]) for cost, count in matrices]).view(costs.shape[:3])

    def assignment(self, given: Tensor, finite: Tensor) -> SetAssignment:
        """Return what the queries learn, on the device of the predictions.

        Args:
            given: (L, B, Q) on the CPU.
            finite: (L, B, Q) on the CPU, predictions that count.
        """
        assignment = SetAssignment.of(given, finite, self.targets).to(self.logits.device)
        if not self.regions.shape[1]:
            return assignment
        low, high = self.regions[:, None].split(3, dim=-1)
        center = self.boxes.detach()[..., None, :3]  # (L, B, Q, 1, 3)
        return assignment.ignoring(((center >= low) & (center < high)).all(dim=-1).any(dim=-1))


def padded_regions(boxes: Sequence[Tensor | None], shape: Shape) -> Tensor:
    """Return ignore regions of all images in parts of the image (B, M, 6); those that fill up hold nothing (NaN)."""
    parts = [torch.zeros(0, 6) if one is None else from_unit(to_unit(one, shape), (1, 1, 1)) for one in boxes]
    return pad_sequence(parts, batch_first=True, padding_value=torch.nan)
