"""The contract of what a detector learns from scans without labels: a teacher's view of them in, losses out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from medpretrain3d.boxes import Targets
from medpretrain3d.configurable import Configurable
from medpretrain3d.detection import DeformableDETR, Detector
from medpretrain3d.detection.box_grid import Shape
from medpretrain3d.detection.dense import DenseDetector
from medpretrain3d.errors import UserError
from medpretrain3d.loading.unlabeled_crops import UnlabeledBatch
from medpretrain3d.values import NonNegative, Share, ShareBelowOne


@dataclass(frozen=True)
class UnlabeledLosses:
    """What a step says of crops without labels.

    Example:
        >>> import torch
        >>> from medpretrain3d.semi_supervised import UnlabeledLosses
        >>> UnlabeledLosses({"classification": torch.tensor(0.5)}, {"num_pseudo_boxes": 3}).counts
        {'num_pseudo_boxes': 3}
    """

    losses: Mapping[str, Tensor]
    """Named scalars; their sum, times the weight of the step, is added to the losses of the labeled crops."""
    counts: Mapping[str, float | Tensor] = field(default_factory=dict)
    """Numbers of this process that are worth logging, such as how many pseudo-boxes were kept; also 0."""


class SemiSupervised(Configurable):
    """Learning from unlabeled crops beside the labeled ones. Subclasses implement `losses`.

    The labeled crops are learned from as ever; what is said here is added with a weight that rises from step to step:
    `weight * exp(-5 (1 - t)^2)` with `t` from 0 to 1 over the ramp (Laine and Aila, 2017). A teacher that knows nothing
    yet is so hardly heard. With weight 0 a run is the supervised one.

    Args:
        weight: factor of the losses once the ramp is over.
        burn_in: share of the run's steps before which nothing is learned from unlabeled crops. Unbiased Teacher (Liu et
            al., 2021) takes 2,000 of 180,000 for 1 % of COCO's labels.
        ramp: share of the steps, counted from there, over which the weight rises; 0 has it whole at once. Tarvainen and
            Valpola (2017) take 40,000 of 150,000.

    Example:
        >>> from medpretrain3d.semi_supervised import SemiSupervised
        >>> class Nothing(SemiSupervised): ...
        >>> method = Nothing(weight=2.0, burn_in=0.1, ramp=0.4)
        >>> [round(method.weight_at(step, num_steps=100), 3) for step in (0, 10, 30, 50, 90)]
        [0.0, 0.013, 0.573, 2.0, 2.0]
    """

    counted: ClassVar[Mapping[str, str]] = {}
    """What the counts of `losses` are, in words, by their names."""
    mirror_axes: tuple[int, ...] = ()
    """Axes that views are mirrored along."""

    def __init__(self, weight: NonNegative = 1.0, burn_in: ShareBelowOne = 0.0, ramp: Share = 0.27) -> None:
        self.weight = weight
        self.burn_in = burn_in
        self.ramp = ramp

    @property
    def option(self) -> str:
        """Option that chose this method, for messages."""
        return f"model.semi_supervised {type(self).__name__}"

    def weight_at(self, step: int, num_steps: int) -> float:
        """Compute the weight at a step of a run of so many."""
        since = step - self.burn_in * num_steps
        if since < 0:
            return 0.0
        length = self.ramp * num_steps
        progress = min(1.0, since / length) if length else 1.0
        return self.weight * math.exp(-5 * (1 - progress) ** 2)

    def check(self, detector: Detector) -> DenseDetector:
        """Return the detector, which this method can teach.

        Raises:
            UserError: it predicts no boxes at the cells of a pyramid.
        """
        if isinstance(detector, DeformableDETR):
            raise UserError(
                f"{self.option}: got DeformableDETR, which predicts a set: none of its queries has a place, so "
                "predictions of two views are not of the same things, and its scores come from an assignment that "
                "changes while it is learned; take RetinaNet, RetinaUNet or FCOS"
            )
        if not isinstance(detector, DenseDetector):
            raise UserError(
                f"{self.option}: got {type(detector).__name__}, which predicts no boxes at the cells of a pyramid; "
                "take RetinaNet, RetinaUNet or FCOS"
            )
        return detector

    def check_patch(self, detector: DenseDetector, patch: Shape) -> None:
        """Look whether crops of a size (D, H, W) are ones that this method can work with; any are, unless it says so.

        Raises:
            UserError: they are not.
        """

    def losses(
        self,
        student: DenseDetector,
        teacher: DenseDetector,
        image: Tensor,
        targets: list[Targets],
        unlabeled: UnlabeledBatch,
    ) -> UnlabeledLosses:
        """Compute what the student learns from crops without labels.

        Args:
            student: the network that is trained.
            teacher: its moving average, in evaluation mode.
            image: (B, C, D, H, W), the labeled crops of the step.
            targets: what is in them.
            unlabeled: the others, of the same size.
        """
        raise NotImplementedError("a SemiSupervised subclass implements losses")
