"""Box convention, and the containers of boxes: the targets and the detections of one image.

A box is `(d0, h0, w0, d1, h1, w1)`: min corner then max corner along tensor axes (D, H, W), in voxels, half-open. Voxel
`i` fills the interval `[i, i + 1)`, so a cube of three voxels has volume 27 and a box has no "+1" anywhere. World boxes
carry their frame in the name (`boxes_lps_mm`) and are `(x0, y0, z0, x1, y1, z1)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from medpretrain3d.transfer import pinned, sent


@dataclass
class Targets:
    """Ground truth of one image: boxes (N, 6) float32, labels (N,) int64 from 0, and optionally a label map.

    `mask` is (D, H, W) of whole numbers: 0 for background, `label + 1` inside objects; None where no masks exist.
    `ignore` is (M, 6) float32: regions in which finding something is ignored; None is no region.
    `seed` () int64 is what random choices about the image are drawn from in training; None where none was given.

    Example:
        >>> import torch
        >>> from medpretrain3d.boxes import Targets
        >>> targets = Targets(boxes=torch.tensor([[2.0, 2, 2, 5, 5, 5]]), labels=torch.tensor([0]))
        >>> targets.to("cpu").boxes.shape
        torch.Size([1, 6])
    """

    boxes: Tensor
    labels: Tensor
    mask: Tensor | None = None
    ignore: Tensor | None = None
    seed: Tensor | None = None

    def to(self, device: torch.device | str) -> Targets:
        """Return the same targets on another device."""
        return self._each(partial(sent, device=device))

    def pin_memory(self) -> Targets:
        """Return the same targets in pinned memory, from which `to` copies while the host goes on."""
        return self._each(pinned)

    def _each(self, of: Callable[[Any], Any]) -> Targets:
        return Targets(*(of(getattr(self, one.name)) for one in fields(self)))


@dataclass
class Detections:
    """Detections in one image: boxes (N, 6) float32, scores (N,) in [0, 1] descending, labels (N,) int64 from 0.

    Example:
        >>> import torch
        >>> from medpretrain3d.boxes import Detections
        >>> boxes = torch.tensor([[0.0, 0, 0, 4, 4, 4], [8, 8, 8, 12, 12, 12]])
        >>> detections = Detections(boxes, scores=torch.tensor([0.75, 0.25]), labels=torch.tensor([0, 0]))
        >>> len(detections)
        2
        >>> detections[detections.scores > 0.5].boxes
        tensor([[0., 0., 0., 4., 4., 4.]])
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Tensor | slice) -> Detections:
        return Detections(self.boxes[index], self.scores[index], self.labels[index])

    def to(self, device: torch.device | str) -> Detections:
        """Return the same detections on another device."""
        return Detections(self.boxes.to(device), self.scores.to(device), self.labels.to(device))

    @staticmethod
    def cat(parts: Sequence[Detections]) -> Detections:
        """Return all detections of several parts, best score first."""
        joined = Detections(
            torch.cat([part.boxes for part in parts]) if parts else torch.zeros(0, 6),
            torch.cat([part.scores for part in parts]) if parts else torch.zeros(0),
            torch.cat([part.labels for part in parts]) if parts else torch.zeros(0, dtype=torch.long),
        )
        return joined[joined.scores.argsort(descending=True, stable=True)]
