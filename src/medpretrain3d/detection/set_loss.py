"""The loss of a set of predictions: each object is given to one of them, all others are background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medpretrain3d.boxes import generalized_box_iou
from medpretrain3d.configurable import Configurable
from medpretrain3d.detection.labels import IGNORED
from medpretrain3d.detection.losses import giou_loss, iou_loss, sigmoid_focal_loss, varifocal_loss
from medpretrain3d.detection.set_matching import SetAssignment, UnitTargets, hungarian
from medpretrain3d.detection.unit_boxes import from_unit, to_unit
from medpretrain3d.processes import mean_over_samples
from medpretrain3d.transfer import to_host
from medpretrain3d.values import NonNegative, Share

__all__ = ["SetLoss", "UnitTargets", "VarifocalSetLoss", "from_unit", "to_unit"]


class SetLoss(Configurable):
    """Hungarian matching and the losses of what it matches (Carion et al., 2020, eq. 1 and 2, with focal classes).

    Args:
        class_cost: weight of the focal cost in matching.
        l1_cost: weight of the distance of unit boxes in matching.
        giou_cost: weight of the generalized IoU in matching.
        class_weight: factor of the focal loss.
        l1_weight: factor of the L1 loss of unit boxes.
        giou_weight: factor of the generalized IoU loss.
        alpha: of the focal loss.
        gamma: of the focal loss.

    Example:
        >>> import torch
        >>> from medpretrain3d.detection import SetLoss
        >>> from medpretrain3d.detection.set_loss import UnitTargets
        >>> queries = torch.tensor([[0.2, 0.2, 0.2, 0.1, 0.1, 0.1], [0.5, 0.5, 0.5, 0.2, 0.2, 0.2]])  # center, extent
        >>> targets = UnitTargets(boxes=queries[1:] + 0.01, labels=torch.tensor([0]))
        >>> SetLoss().match(torch.zeros(2, 1), queries, targets)
        tensor([-1,  0])
    """

    def __init__(
        self,
        class_cost: NonNegative = 2.0,
        l1_cost: NonNegative = 5.0,
        giou_cost: NonNegative = 2.0,
        class_weight: NonNegative = 1.0,
        l1_weight: NonNegative = 5.0,
        giou_weight: NonNegative = 2.0,
        alpha: Share = 0.25,
        gamma: NonNegative = 2.0,
    ) -> None:
        self.class_cost, self.l1_cost, self.giou_cost = class_cost, l1_cost, giou_cost
        self.class_weight, self.l1_weight, self.giou_weight = class_weight, l1_weight, giou_weight
        self.alpha, self.gamma = alpha, gamma

    @torch.no_grad()
    def match(self, logits: Tensor, boxes: Tensor, targets: UnitTargets) -> Tensor:
        """Return index of the object each prediction is given, `BACKGROUND` for none: (Q,), on the CPU.

        Args:
            logits: (Q, K) of one image.
            boxes: (Q, 6) unit boxes.
            targets: of the image.
        """
        return hungarian(self.costs(logits, boxes, targets).cpu())

    @torch.no_grad()
    def costs(self, logits: Tensor, boxes: Tensor, targets: UnitTargets) -> Tensor:
        """Compute what it costs to give each object to each prediction: (..., Q, N) float32.

        Args:
            logits: (..., Q, K).
            boxes: (..., Q, 6) unit boxes.
            targets: of an image, or of all images of a batch, `padded`; broadcast over what comes before.
        """
        logits, boxes = logits.float(), boxes.float()
        found = sigmoid_focal_loss(logits, torch.ones_like(logits), self.alpha, self.gamma)
        missed = sigmoid_focal_loss(logits, torch.zeros_like(logits), self.alpha, self.gamma)
        labels = targets.labels[..., None, :].expand(*logits.shape[:-1], -1)
        overlap = generalized_box_iou(from_unit(boxes, (1, 1, 1)), from_unit(targets.boxes, (1, 1, 1)))
        distance = torch.cdist(boxes, targets.boxes, p=1)
        cost = (
            self.class_cost * (found - missed).gather(-1, labels) + self.l1_cost * distance - self.giou_cost * overlap
        )
        # A prediction that is not finite goes last; scipy would refuse the whole image.
        return cost.nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6)

    def __call__(
        self, logits: Tensor, boxes: Tensor, finite: Tensor, targets: Sequence[UnitTargets], given: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Return `classification`, `l1` and `giou`, weighted scalars per object given, of all processes.

        Args:
            logits: (B, Q, K).
            boxes: (B, Q, 6) unit boxes.
            finite: (B, Q) predictions that count.
            targets: of each image, on the CPU.
            given: per image (Q,) the object of each prediction; `BACKGROUND` for none, `IGNORED` where it does not
                count.
        """
        on_host, is_finite = to_host([torch.stack(list(given)), finite])
        assignment = SetAssignment.of(on_host[None], is_finite[None], targets).to(logits.device)
        return {name: values[0] for name, values in self.of_layers(logits[None], boxes[None], assignment).items()}

    def of_classes(self, logits: Tensor, one_hot: Tensor, unit: Tensor, assignment: SetAssignment) -> Tensor:
        """Return the loss of each logit (L, B, Q, K).

        Args:
            logits: (L, B, Q, K) float32.
            one_hot: the same shape, 1 at the class of a query's object.
            unit: (P, 6) unit boxes of the queries with an object.
            assignment: with the objects' boxes.
        """
        return sigmoid_focal_loss(logits, one_hot, self.alpha, self.gamma)

    def of_layers(self, logits: Tensor, boxes: Tensor, assignment: SetAssignment) -> dict[str, Tensor]:
        """Return what the call does for each of L layers: (L,) each.

        Args:
            logits: (L, B, Q, K).
            boxes: (L, B, Q, 6) unit boxes.
            assignment: on their device.
        """
        labels = assignment.labels[..., None]
        counted = labels != IGNORED
        logits = torch.where(counted, logits.float(), 0)  # what is not finite does not count
        one_hot = (labels == torch.arange(logits.shape[-1], device=logits.device)).float()
        unit, truth = boxes.flatten(0, 2).index_select(0, assignment.positive).float(), assignment.boxes
        of_classes = self.of_classes(logits, one_hot, unit, assignment)
        focal = torch.where(counted, of_classes, 0)
        giou = giou_loss(from_unit(unit, (1, 1, 1)), from_unit(truth, (1, 1, 1)))
        of_boxes = torch.stack([(unit - truth).abs().sum(dim=1), giou])  # (2, P)
        l1, giou = torch.stack([part.sum(dim=1) for part in of_boxes.split(assignment.counts, dim=1)], dim=1)
        summed = torch.stack(
            [self.class_weight * focal.flatten(1).sum(dim=1), self.l1_weight * l1, self.giou_weight * giou]
        )
        means = mean_over_samples(summed, torch.tensor(assignment.counts))
        return dict(zip(("classification", "l1", "giou"), means, strict=True))


class VarifocalSetLoss(SetLoss):
    """`SetLoss` whose classes learn how well their box fits (Zhang et al., VarifocalNet, 2021, as in RT-DETRv2).

    The score of a query with an object is to be the IoU of its box with it, so that of several queries the best placed
    scores highest. Matching is that of `SetLoss`.

    Args:
        negative_alpha: weight of what is background.
        negative_gamma: how fast easy background fades.
        options: all others of `SetLoss`.

    Example:
        >>> from medpretrain3d.detection import VarifocalSetLoss
        >>> VarifocalSetLoss(class_cost=1.0).negative_alpha
        0.75
    """

    def __init__(self, negative_alpha: Share = 0.75, negative_gamma: NonNegative = 2.0, **options: Any) -> None:
        super().__init__(**options)
        self.negative_alpha, self.negative_gamma = negative_alpha, negative_gamma

    def of_classes(self, logits: Tensor, one_hot: Tensor, unit: Tensor, assignment: SetAssignment) -> Tensor:
        """See `SetLoss`."""
        fit = 1 - iou_loss(from_unit(unit.detach(), (1, 1, 1)), from_unit(assignment.boxes, (1, 1, 1)))
        of_query = logits.new_zeros(logits.shape[:-1].numel()).index_copy_(0, assignment.positive, fit)
        quality = of_query.view(*logits.shape[:-1], 1) * one_hot
        return varifocal_loss(logits, quality, one_hot, self.negative_alpha, self.negative_gamma)
