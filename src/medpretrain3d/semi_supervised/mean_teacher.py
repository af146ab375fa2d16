"""Mean teacher with pseudo-boxes: what the averaged network is sure of is taken for true."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from medpretrain3d.boxes import Detections, Targets, batched_nms
from medpretrain3d.detection.dense import DenseDetector
from medpretrain3d.loading.unlabeled_crops import UnlabeledBatch
from medpretrain3d.randomness import sample_seeds
from medpretrain3d.semi_supervised.base import SemiSupervised, UnlabeledLosses
from medpretrain3d.values import NonNegative, Share, ShareBelowOne


class MeanTeacher(SemiSupervised):
    """A student learns, on changed crops, the boxes that its moving average finds in them with a high score.

    The simple baseline (Tarvainen and Valpola, 2017), for boxes as Unbiased Teacher has it (Liu et al., 2021). Teacher
    and student see the same crop, the student with noise, blur and contrast of `data.intensity`, so a pseudo-box needs
    no carrying. Masks are not made up: a Retina U-Net learns its boxes alone from these crops.

    Args:
        score_threshold: of the teacher's detections those from here on are pseudo-boxes; how many were kept is logged,
            as `num_pseudo_boxes` of each step.
        nms_iou: overlap within a class above which the pseudo-box of a lower score goes, however many the detector
            itself leaves to be merged over the whole volume.
        regression_weight: factor on the losses of the boxes' sides beside that of their classes. 0 in Unbiased Teacher,
            since a score says nothing about where the sides are.
        weight: as in `SemiSupervised`.
        burn_in: as in `SemiSupervised`.
        ramp: as in `SemiSupervised`.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.detection import FCOS
        >>> from medpretrain3d.loading.unlabeled_crops import UnlabeledBatch
        >>> from medpretrain3d.semi_supervised import MeanTeacher
        >>> student, teacher = (FCOS(ResEnc("XXS"), num_classes=1, fpn_channels=16) for _ in range(2))
        >>> image = torch.rand(2, 1, 16, 16, 16)
        >>> unlabeled = UnlabeledBatch(image, image + 0.1, seeds=(0, 1))
        >>> found = MeanTeacher().losses(student, teacher.eval(), image, [], unlabeled)
        >>> sorted(found.losses), found.counts
        (['classification'], {'num_pseudo_boxes': 0})
    """

    counted: ClassVar[Mapping[str, str]] = {"num_pseudo_boxes": "pseudo-boxes kept"}

    def __init__(
        self,
        score_threshold: Share = 0.7,
        nms_iou: Share = 0.3,
        regression_weight: NonNegative = 0.0,
        weight: NonNegative = 4.0,
        burn_in: ShareBelowOne = 0.0,
        ramp: Share = 0.27,
    ) -> None:
        super().__init__(weight, burn_in, ramp)
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.regression_weight = regression_weight

    def losses(
        self,
        student: DenseDetector,
        teacher: DenseDetector,
        image: Tensor,
        targets: list[Targets],
        unlabeled: UnlabeledBatch,
    ) -> UnlabeledLosses:
        """See `SemiSupervised`; `classification`, and the other losses of the detector where they count."""
        pseudo = [self.pseudo_targets(found) for found in teacher.detect(unlabeled.image)]
        with sample_seeds(torch.tensor(unlabeled.seeds)):
            losses = student.pyramid_losses(student.pyramid(unlabeled.changed), student.valid_targets_on_host(pseudo))
        weights = {name: 1.0 if name == "classification" else self.regression_weight for name in losses}
        num_pseudo_boxes = sum(len(one.labels) for one in pseudo)
        kept = {name: weights[name] * loss for name, loss in losses.items() if weights[name]}
        return UnlabeledLosses(kept, {"num_pseudo_boxes": num_pseudo_boxes})

    def pseudo_targets(self, found: Detections) -> Targets:
        """Return the detections of an image that are taken for true."""
        sure = found[found.scores >= self.score_threshold]
        kept = sure[batched_nms(sure.boxes, sure.scores, sure.labels, self.nms_iou)]
        return Targets(kept.boxes, kept.labels)
