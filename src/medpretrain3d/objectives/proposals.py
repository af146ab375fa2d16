"""What a dense detector says of each proposal, and the contract of tasks that learn from it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medpretrain3d.boxes import Targets
from medpretrain3d.configurable import Configurable
from medpretrain3d.detection import Detector
from medpretrain3d.detection.dense import DenseDetector, level_shapes
from medpretrain3d.errors import UserError
from medpretrain3d.values import NonNegative


class ProposalTask(Configurable, nn.Module, is_base=True):
    """A task over the proposals of `DetectorPretraining`. Subclasses implement `build` and `forward`.

    Args:
        weight: factor of its loss.
    """

    def __init__(self, weight: NonNegative = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def build(self, detector: Detector, frozen_encoder: bool) -> None:
        """Make the layers that a detector needs for it.

        Raises:
            UserError: there are none for such a detector.
        """
        raise NotImplementedError("a ProposalTask subclass implements build")

    def forward(self, detector: Detector, image: Tensor, targets: list[Targets], seed: Tensor) -> Tensor:
        """Compute the loss, not weighted.

        Args:
            detector: of `build`.
            image: (B, C, D, H, W).
            targets: valid ones, on the CPU.
            seed: (B,) int64.
        """
        raise NotImplementedError("a ProposalTask subclass implements forward")

    def after_load(self, detector: Detector) -> None:
        """Reset copies of the detector, after it received weights from a file."""

    def after_step(self, detector: Detector) -> None:
        """Update averages, after every step of the optimizer."""


def dense(detector: nn.Module, task: str) -> DenseDetector:
    """Return a detector whose proposals have places.

    Raises:
        UserError: it predicts a set, or its heads have no tower.
    """
    heads = [getattr(detector, name, None) for name in ("classification_head", "box_head")]
    if not isinstance(detector, DenseDetector) or not all(hasattr(head, "tower") for head in heads):
        raise UserError(
            f"DetectorPretraining: {task} reads what a head says at the anchors of each proposal, and "
            f"{type(detector).__name__} has none; use RetinaNet, RetinaUNet or FCOS, or leave {task} out"
        )
    return detector


def feature_channels(detector: DenseDetector, head: str) -> int:
    """Return the width of `proposal_features`."""
    return int(getattr(detector, head).output.in_channels)


def proposal_features(
    detector: DenseDetector, image: Tensor, targets: list[Targets], head: str
) -> tuple[Tensor, Tensor]:
    """Compute the mean of a head's features over the anchors of each proposal.

    Args:
        detector: whose pyramid and head are asked.
        image: (B, C, D, H, W).
        targets: valid ones, on the CPU; N proposals in all.
        head: name of the head, of which the last layer before the output is taken.

    Returns:
        (N, C) float32, 0 where there is no anchor; and (N,) bool, whether there is one.
    """
    pyramid = detector.pyramid(image)
    tower = getattr(detector, head).tower
    cells = torch.cat([tower(level).flatten(2).transpose(1, 2) for level in pyramid], dim=1)  # (B, cells, C)
    counts = [len(one.labels) for one in targets]
    # A number of its own for each proposal in place of its class.
    numbers = torch.arange(sum(counts)).split(counts)
    numbered = [Targets(one.boxes, own, ignore=one.ignore) for one, own in zip(targets, numbers, strict=True)]
    assignment = detector.match(level_shapes(pyramid), numbered)
    num_anchors = cells.shape[1] * detector.anchors.per_cell
    image_of, anchor = assignment.positive // num_anchors, assignment.positive % num_anchors
    place = (image_of * cells.shape[1] + anchor // detector.anchors.per_cell).to(cells.device, non_blocking=True)
    of_anchors = cells.flatten(0, 1).index_select(0, place).float()
    proposal = assignment.labels.to(cells.device, non_blocking=True)
    summed = of_anchors.new_zeros(sum(counts), of_anchors.shape[1]).index_add(0, proposal, of_anchors)
    number = torch.bincount(assignment.labels, minlength=sum(counts))
    mean = summed / number.clamp(min=1).to(summed.device, non_blocking=True)[:, None]
    return mean, (number > 0).to(summed.device, non_blocking=True)
