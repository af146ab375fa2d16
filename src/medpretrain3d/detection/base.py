"""The contract of a detector: two verbs around a backbone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from medpretrain3d.backbones.base import Backbone
from medpretrain3d.boxes import Detections, Targets, has_extent
from medpretrain3d.configurable import Configurable
from medpretrain3d.errors import UserError
from medpretrain3d.processes import total

logger = logging.getLogger(__name__)


class Detector(Configurable, nn.Module):
    """A network that finds boxes. Subclasses set `backbone` and `num_classes` and implement the two verbs.

    The constructor takes `backbone` and `num_classes` first; the others have defaults or are in `tiny`. Where it takes
    `detections_per_image` or `score_threshold`, no more boxes of an image are given, and none of a lower score. A
    backbone with too few levels is refused by a `UserError`.

    Every trainable parameter receives a gradient from `losses`, also when no image holds an object: distributed
    training then needs no search for unused parameters. What is found in an ignore region, and is no object, costs
    less than elsewhere, and nothing in a loss called `classification`. `valid_targets` and `finite_predictions` drop
    and count what is no box and what is not finite; neither ends a step.

    Example:
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.detection import FCOS, Detector
        >>> detector = FCOS(ResEnc("XXS"), num_classes=2, fpn_channels=16)
        >>> isinstance(detector, Detector), detector.num_classes
        (True, 2)
    """

    backbone: Backbone
    num_classes: int
    tiny: ClassVar[Mapping[str, Any]] = {}
    """Arguments beside `backbone` and `num_classes` of a small one, of which every contract test is asked."""
    num_invalid_boxes: int = 0
    """Target boxes dropped so far because they had no extent or were not finite; worth logging."""
    num_invalid_predictions: int = 0
    """Predictions that were not finite, left out of a loss or of what was found; worth logging."""
    num_predictions: int = 0
    """Predictions made so far, finite or not."""

    def __init_subclass__(cls, is_base: bool = False, **options: Any) -> None:
        """Keep `launch` with `detect`: a class that overrides `detect` alone does not inherit another's `launch`."""
        super().__init_subclass__(is_base=is_base, **options)
        if "detect" in vars(cls) and "launch" not in vars(cls):
            cls.launch = Detector.launch  # type: ignore[method-assign]

    def losses(self, image: Tensor, targets: list[Targets]) -> dict[str, Tensor]:
        """Named scalar losses of a batch (B, C, D, H, W), already weighted: their sum is what to minimise."""
        raise NotImplementedError("a Detector subclass implements losses")

    def detect(self, image: Tensor) -> list[Detections]:
        """Detect objects in each image of (B, C, D, H, W); boxes in voxels of that image, best score first."""
        raise NotImplementedError("a Detector subclass implements detect")

    def launch(self, image: Tensor) -> Callable[[], list[Detections]]:
        """Start to detect; what is returned waits for the device, decodes, and returns what `detect` does.

        On a GPU the next batch can so be launched before this one is decoded. A detector that does not say what can
        be put off detects at once.
        """
        found = self.detect(image)
        return lambda: found

    def valid_targets(self, targets: list[Targets]) -> list[Targets]:
        """The targets with float32 boxes and regions, without those that are empty or not finite (counted, reported).

        Raises:
            UserError: a label is outside `0 .. num_classes - 1`.
        """
        valid = []
        for target in targets:
            boxes, labels = target.boxes.float().reshape(-1, 6), target.labels.long()
            keep = _is_box(boxes)
            num_invalid = len(keep) - int(keep.sum())
            if num_invalid:
                self.num_invalid_boxes += num_invalid
                logger.warning(
                    "dropped %d target boxes without extent or not finite (%d so far)",
                    num_invalid,
                    self.num_invalid_boxes,
                )
                boxes, labels = boxes[keep], labels[keep]
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
                raise UserError(
                    f"labels {sorted(set(labels.tolist()))}: a detector of {self.num_classes} classes takes labels "
                    f"0 .. {self.num_classes - 1}; set num_classes to the number of classes of the data"
                )
            regions = boxes.new_zeros(0, 6) if target.ignore is None else target.ignore.to(boxes).reshape(-1, 6)
            valid.append(Targets(boxes, labels, target.mask, regions[_is_box(regions)], target.seed))
        return valid

    def finite_predictions(self, *predictions: Tensor) -> Tensor:
        """Find the rows of tensors (N, ...) that are finite in all: (N,) bool; the others are counted, reported."""
        finite = torch.stack([torch.isfinite(values).flatten(1).all(dim=1) for values in predictions]).all(dim=0)
        num_invalid = len(finite) - int(finite.sum())
        self.num_predictions += len(finite)
        if num_invalid:
            self.num_invalid_predictions += num_invalid
            logger.warning(
                "left out %d predictions that are not finite (%d so far); if this goes on, lower the learning rate",
                num_invalid,
                self.num_invalid_predictions,
            )
        return finite

    def where_any_is_finite(self, loss: Tensor, finite: Tensor) -> Tensor:
        """Return the loss; not a number where no prediction of any process is finite, for then nothing was learnt.

        Args:
            loss: ().
            finite: which predictions of this process are, any shape, bool.
        """
        return torch.where(total(finite.sum()) > 0, loss, torch.nan)


def _is_box(boxes: Tensor) -> Tensor:
    return torch.isfinite(boxes).all(dim=1) & has_extent(boxes)
