"""The contract of a detector: two verbs around a backbone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from medpretrain3d.backbones.base import Backbone
from medpretrain3d.boxes import Detections, Targets, has_extent, is_point
from medpretrain3d.configurable import Configurable, to_config
from medpretrain3d.detection.mask_head import MaskHead
from medpretrain3d.errors import UserError
from medpretrain3d.graph_compilation import network_parts
from medpretrain3d.processes import total
from medpretrain3d.transfer import to_host

logger = logging.getLogger(__name__)

Part = Literal["neck", "box", "class", "labels"]
"""Neck; what finds and refines boxes; class tower; layers with an output for each class."""


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
    parts: ClassVar[Mapping[str, Part]] = {}
    """Beginnings of names of tensors beside the backbone's, and which part they are of; of what is not named, `class`.
    By them another detector takes over weights, see `medpretrain3d.detection.transfer`."""
    shaped_by_anchors: ClassVar[tuple[str, ...]] = ()
    """Beginnings of names of tensors that mean something for the same `anchoring` alone."""
    behind_layers: ClassVar[Mapping[str, str]] = {}
    """Beginnings of names of tensors that read the last of numbered layers, and the beginning of those layers' names:
    behind more or fewer of them they mean nothing."""
    learns_points: ClassVar[bool] = False
    """Whether a target may be a point, a box whose two corners are one; elsewhere it is no box."""
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
            cls.launch = Detector.launch  # type: ignore[method-assign]  # of this class alone

    def geometry(self) -> dict[str, Any]:
        """Return plain data on what the neck joins and how, which shapes do not tell: its weights mean that alone."""
        return {"strides": [list(level.stride) for level in self.backbone.levels]}

    def anchoring(self) -> list[object]:
        """Return plain data on what boxes are relative to: what is `shaped_by_anchors` means something for it alone."""
        parts = [getattr(self, name, None) for name in ("anchors", "coder")]
        return [to_config(one) for one in parts if isinstance(one, Configurable)]

    def check_spacing(self, spacing_mm: Sequence[float] | None) -> None:
        """Compare lengths in mm among the arguments with the spacing (D, H, W) of the data, where there are any.

        Args:
            spacing_mm: None where each scan keeps its own.

        Raises:
            UserError: they are of another spacing.
        """

    def compiled_parts(self) -> dict[str, nn.Module]:
        """Return what `torch.compile` is given, by name: parts that hold the time and are called as modules."""
        parts = network_parts(self)
        if isinstance(head := parts.get("mask_head"), MaskHead):
            # The number of objects changes with every step, and each would be a graph of its own.
            del parts["mask_head"]
            parts["mask_head.fpn"] = head.fpn
        return parts

    def losses(self, image: Tensor, targets: list[Targets]) -> dict[str, Tensor]:
        """Named scalar losses of a batch (B, C, D, H, W), already weighted: their sum is what to minimise."""
        raise NotImplementedError("a Detector subclass implements losses")

    def detect(self, image: Tensor) -> list[Detections]:
        """Detect objects in each image of (B, C, D, H, W); boxes in voxels of that image, best score first.

        What is found is on the CPU where that saves waiting for a device, as it does in the detectors of this package.
        """
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
        return [
            Targets(
                valid.boxes.to(target.boxes.device, non_blocking=True),
                valid.labels.to(target.labels.device, non_blocking=True),
                target.mask,
                None if valid.ignore is None else valid.ignore.to(target.boxes.device, non_blocking=True),
                target.seed,
            )
            for target, valid in zip(targets, self.valid_targets_on_host(targets), strict=True)
        ]

    def valid_targets_on_host(self, targets: list[Targets]) -> list[Targets]:
        """Return `valid_targets` with boxes, labels and regions on the CPU, where they are matched; masks stay.

        Targets that are there already cost no wait, others one for all images.
        """
        valid = []
        for target in targets_to_host(targets):
            boxes, labels = target.boxes.float().reshape(-1, 6), target.labels.long()
            keep = _is_box(boxes)
            if self.learns_points:
                keep |= torch.isfinite(boxes).all(dim=1) & is_point(boxes)
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
            assert target.ignore is not None
            regions = target.ignore.float().reshape(-1, 6)
            valid.append(Targets(boxes, labels, target.mask, regions[_is_box(regions)], target.seed))
        return valid

    def finite_predictions(self, *predictions: Tensor) -> Tensor:
        """Find the rows of tensors (N, ...) that are finite in all: (N,) bool; the others are counted, reported."""
        finite = finite_rows(*predictions)
        self.count_predictions(len(finite), len(finite) - int(finite.sum()))
        return finite

    def count_predictions(self, num: int, num_invalid: int) -> None:
        """Count predictions, and report those that are not finite."""
        self.num_predictions += num
        if num_invalid:
            self.num_invalid_predictions += num_invalid
            logger.warning(
                "left out %d predictions that are not finite (%d so far); if this goes on, lower the learning rate",
                num_invalid,
                self.num_invalid_predictions,
            )

    def where_any_is_finite(self, loss: Tensor, finite: Tensor) -> Tensor:
        """Return the loss; not a number where no prediction of any process is finite, for then nothing was learnt.

        Args:
            loss: (), or (L,) of several layers.
            finite: which predictions of this process are, any shape, or (L, ...) those of each layer, bool.
        """
        num_finite = finite.flatten(1).sum(dim=1) if loss.dim() else finite.sum()
        return torch.where(total(num_finite) > 0, loss, torch.nan)


def targets_to_host(targets: Sequence[Targets]) -> list[Targets]:
    """Return targets with boxes, labels and regions on the CPU, masks where they are; at most one wait for all."""
    none = torch.zeros(0, 6)
    parts = [(one.boxes, one.labels, none if one.ignore is None else one.ignore) for one in targets]
    on_host = iter(to_host([part for of_image in parts for part in of_image]))
    return [Targets(next(on_host), next(on_host), one.mask, next(on_host), one.seed) for one in targets]


def finite_rows(*predictions: Tensor) -> Tensor:
    """Find the rows of tensors (N, ...) that are finite in all: (N,) bool."""
    return torch.stack([torch.isfinite(values).flatten(1).all(dim=1) for values in predictions]).all(dim=0)


def without_invalid(targets: Sequence[Targets]) -> list[Targets]:
    """Return targets without masks and without boxes that `Detector.valid_targets` drops, for those who count none."""
    valid = []
    for one in targets:
        boxes = one.boxes.float().reshape(-1, 6)
        keep = _is_box(boxes)
        regions = boxes[:0] if one.ignore is None else one.ignore.float().reshape(-1, 6)
        valid.append(Targets(boxes[keep], one.labels.long()[keep], None, regions[_is_box(regions)], one.seed))
    return valid


def _is_box(boxes: Tensor) -> Tensor:
    return torch.isfinite(boxes).all(dim=1) & has_extent(boxes)
