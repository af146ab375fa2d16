"""The loss of a set of predictions: each object is given to one of them, all others are background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medpretrain3d.boxes import box_center, box_size, corners_of, generalized_box_iou
from medpretrain3d.configurable import Configurable
from medpretrain3d.detection.box_grid import Shape
from medpretrain3d.detection.labels import BACKGROUND, IGNORED
from medpretrain3d.detection.losses import giou_loss, sigmoid_focal_loss
from medpretrain3d.processes import mean_over_samples
from medpretrain3d.values import NonNegative, Share


@dataclass(frozen=True)
class UnitTargets:
    """Objects of one image: unit boxes (N, 6) and labels (N,)."""

    boxes: Tensor
    labels: Tensor


def to_unit(boxes: Tensor, shape: Shape) -> Tensor:
    """Return corner boxes (..., 6) in voxels -> unit boxes: (centre, extent) in parts of the image, float32."""
    boxes = boxes.float() / boxes.new_tensor([*shape, *shape], dtype=torch.float32)
    return torch.cat([box_center(boxes), box_size(boxes)], dim=-1)


def from_unit(unit: Tensor, shape: Shape) -> Tensor:
    """Return unit boxes (..., 6) -> corner boxes in voxels, float32; `from_unit(unit, (1, 1, 1))` stays in parts."""
    center, extent = unit.float().split(3, dim=-1)
    return corners_of(center, extent) * unit.new_tensor([*shape, *shape], dtype=torch.float32)


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
        """Return index of the object each prediction is given, `BACKGROUND` for none: (Q,).

        Args:
            logits: (Q, K) of one image.
            boxes: (Q, 6) unit boxes.
            targets: of the image.
        """
        from scipy.optimize import linear_sum_assignment

        logits, boxes = logits.float(), boxes.float()
        found = sigmoid_focal_loss(logits, torch.ones_like(logits), self.alpha, self.gamma)
        missed = sigmoid_focal_loss(logits, torch.zeros_like(logits), self.alpha, self.gamma)
        overlap = generalized_box_iou(from_unit(boxes, (1, 1, 1)), from_unit(targets.boxes, (1, 1, 1)))
        distance = torch.cdist(boxes, targets.boxes, p=1)
        cost = (
            self.class_cost * (found - missed)[:, targets.labels] + self.l1_cost * distance - self.giou_cost * overlap
        )
        # A prediction that is not finite goes last; scipy would refuse the whole image.
        rows, columns = linear_sum_assignment(cost.nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy())
        given = torch.full((len(logits),), BACKGROUND, device=logits.device)
        given[torch.from_numpy(rows).to(given)] = torch.from_numpy(columns).to(given)
        return given

    def __call__(
        self, logits: Tensor, boxes: Tensor, finite: Tensor, targets: Sequence[UnitTargets], given: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Return `classification`, `l1` and `giou`, weighted scalars per object given, of all processes.

        Args:
            logits: (B, Q, K).
            boxes: (B, Q, 6) unit boxes.
            finite: (B, Q) predictions that count.
            targets: of each image.
            given: per image (Q,) the object of each prediction; `BACKGROUND` for none, `IGNORED` where it does not
                count.
        """
        labels, predicted, true = [], [], []
        for index, (target, objects) in enumerate(zip(targets, given, strict=True)):
            positive = (objects >= 0) & finite[index]
            label = torch.full_like(objects, BACKGROUND)
            label[positive] = target.labels[objects[positive]]
            labels.append(label.masked_fill((objects == IGNORED) | ~finite[index], IGNORED))
            predicted.append(boxes[index, positive])
            true.append(target.boxes[objects[positive]])
        label, unit, truth = torch.cat(labels), torch.cat(predicted).float(), torch.cat(true)
        count = len(truth)
        counted = label != IGNORED
        logits = logits.flatten(0, 1)[counted].float()
        one_hot = (label[counted, None] == torch.arange(logits.shape[1], device=logits.device)).float()
        focal = sigmoid_focal_loss(logits, one_hot, self.alpha, self.gamma).sum()
        giou = giou_loss(from_unit(unit, (1, 1, 1)), from_unit(truth, (1, 1, 1))).sum()
        return {
            "classification": self.class_weight * mean_over_samples(focal, count),
            "l1": self.l1_weight * mean_over_samples((unit - truth).abs().sum(), count),
            "giou": self.giou_weight * mean_over_samples(giou, count),
        }
