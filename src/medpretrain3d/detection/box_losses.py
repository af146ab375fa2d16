"""Losses of the boxes of positive anchors."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from medpretrain3d.configurable import Configurable
from medpretrain3d.detection.coder import BoxCoder
from medpretrain3d.detection.losses import diou_loss, giou_loss, l1_loss, smooth_l1_loss
from medpretrain3d.errors import UserError
from medpretrain3d.processes import mean_over_samples
from medpretrain3d.values import NonNegative, Positive

BoxLossName = Literal["giou", "diou", "l1", "smooth_l1"]


class RegressionLoss(Configurable):
    """What a box head says of positive anchors and their objects in, named weighted scalars out.

    Example:
        >>> import torch
        >>> from medpretrain3d.detection import BoxCoder, RegressionLoss
        >>> class Square(RegressionLoss):
        ...     def __call__(self, outputs, anchors, boxes, coder):
        ...         return {"boxes": (outputs - coder.encode(boxes, anchors)).square().sum()}
        >>> anchors, boxes = torch.tensor([[0.0, 0, 0, 4, 4, 4]]), torch.tensor([[2.0, 0, 0, 6, 4, 4]])
        >>> Square()(torch.zeros(1, 6), anchors, boxes, BoxCoder())
        {'boxes': tensor(0.2500)}
    """

    def __call__(self, outputs: Tensor, anchors: Tensor, boxes: Tensor, coder: BoxCoder) -> dict[str, Tensor]:
        """Compute scalars of the positive anchors of a batch, divided by their number over all processes.

        Sums over no anchor are 0 with a gradient of 0, so that the box head takes part in every step.

        Args:
            outputs: (P, V) float32 of the box head.
            anchors: (P, 6).
            boxes: (P, 6), the object of each.
            coder: boxes to deltas and back.
        """
        raise NotImplementedError("a RegressionLoss subclass implements the call")


class BoxLoss(RegressionLoss):
    """Mean over positive anchors of a loss of their six deltas. Subclasses implement `per_anchor`.

    Args:
        weight: factor of the loss.

    Example:
        >>> import torch
        >>> from medpretrain3d.detection import BoxCoder, BoxLoss
        >>> class Largest(BoxLoss):
        ...     def per_anchor(self, deltas, anchors, boxes, coder):
        ...         return (deltas - coder.encode(boxes, anchors)).abs().amax(dim=1)
        >>> anchors, boxes = torch.tensor([[0.0, 0, 0, 4, 4, 4]]), torch.tensor([[2.0, 0, 0, 6, 4, 4]])
        >>> Largest(weight=3.0)(torch.zeros(1, 6), anchors, boxes, BoxCoder())
        {'boxes': tensor(1.5000)}
    """

    def __init__(self, weight: NonNegative = 1.0) -> None:
        self.weight = weight

    def per_anchor(self, deltas: Tensor, anchors: Tensor, boxes: Tensor, coder: BoxCoder) -> Tensor:
        """Compute the loss of each positive anchor (P,) float32, not weighted."""
        raise NotImplementedError("a BoxLoss subclass implements per_anchor")

    def __call__(self, outputs: Tensor, anchors: Tensor, boxes: Tensor, coder: BoxCoder) -> dict[str, Tensor]:
        """Return `boxes`; see `RegressionLoss`."""
        loss = self.per_anchor(outputs, anchors, boxes, coder).sum()
        return {"boxes": self.weight * mean_over_samples(loss, len(boxes))}


class GIoULoss(BoxLoss):
    """`1 - GIoU` of decoded boxes (Rezatofighi et al., 2019).

    Example:
        >>> import torch
        >>> from medpretrain3d.detection import BoxCoder, GIoULoss
        >>> anchors, boxes = torch.tensor([[0.0, 0, 0, 4, 4, 4]]), torch.tensor([[0.0, 0, 0, 4, 4, 8]])
        >>> GIoULoss()(torch.zeros(1, 6), anchors, boxes, BoxCoder())  # half of the box is found
        {'boxes': tensor(0.5000)}
    """

    def per_anchor(self, deltas: Tensor, anchors: Tensor, boxes: Tensor, coder: BoxCoder) -> Tensor:
        """Compute (P,) in [0, 2]."""
        return giou_loss(coder.decode(deltas, anchors), boxes)


class DIoULoss(BoxLoss):
    """`1 - IoU` of decoded boxes and the distance of their centers (Zheng et al., 2020).

    Example:
        >>> import torch
        >>> from medpretrain3d.detection import BoxCoder, DIoULoss
        >>> anchors, boxes = torch.tensor([[0.0, 0, 0, 4, 4, 4]]), torch.tensor([[1.0, 1, 1, 3, 3, 3]])
        >>> DIoULoss()(torch.zeros(1, 6), anchors, boxes, BoxCoder())  # one center, an eighth of the volume
        {'boxes': tensor(0.8750)}
    """

    def per_anchor(self, deltas: Tensor, anchors: Tensor, boxes: Tensor, coder: BoxCoder) -> Tensor:
        """Compute (P,) in [0, 2)."""
        return diou_loss(coder.decode(deltas, anchors), boxes)


class L1Loss(BoxLoss):
    """Sum of the distances of the six deltas.

    Example:
        >>> import torch
        >>> from medpretrain3d.detection import BoxCoder, L1Loss
        >>> anchors, boxes = torch.tensor([[0.0, 0, 0, 4, 4, 4]]), torch.tensor([[1.0, 2, 0, 5, 6, 4]])
        >>> L1Loss()(torch.zeros(1, 6), anchors, boxes, BoxCoder())  # a quarter and half of an anchor
        {'boxes': tensor(0.7500)}
    """

    def per_anchor(self, deltas: Tensor, anchors: Tensor, boxes: Tensor, coder: BoxCoder) -> Tensor:
        """Compute (P,)."""
        return l1_loss(deltas, coder.encode(boxes, anchors))


class SmoothL1Loss(BoxLoss):
    """`L1Loss` that is quadratic near 0 (Girshick, 2015).

    Args:
        weight: factor of the loss.
        beta: distance from which it is linear.

    Example:
        >>> import torch
        >>> from medpretrain3d.detection import BoxCoder, SmoothL1Loss
        >>> anchors, boxes = torch.tensor([[0.0, 0, 0, 4, 4, 4]]), torch.tensor([[2.0, 0, 0, 6, 4, 4]])
        >>> SmoothL1Loss()(torch.zeros(1, 6), anchors, boxes, BoxCoder())  # 0.5^2 / 2
        {'boxes': tensor(0.1250)}
    """

    def __init__(self, weight: NonNegative = 1.0, beta: Positive = 1.0) -> None:
        super().__init__(weight)
        self.beta = beta

    def per_anchor(self, deltas: Tensor, anchors: Tensor, boxes: Tensor, coder: BoxCoder) -> Tensor:
        """Compute (P,)."""
        return smooth_l1_loss(deltas, coder.encode(boxes, anchors), self.beta)


BOX_LOSSES: dict[BoxLossName, type[BoxLoss]] = {
    "giou": GIoULoss,
    "diou": DIoULoss,
    "l1": L1Loss,
    "smooth_l1": SmoothL1Loss,
}


def box_loss_of(loss: BoxLossName | BoxLoss, weight: float) -> BoxLoss:
    """Return the loss that a name stands for, or the loss itself.

    Args:
        loss: a name, or an object that has a weight of its own.
        weight: of a loss given by name.

    Raises:
        UserError: an object and another weight than 1.
    """
    if not isinstance(loss, BoxLoss):
        return BOX_LOSSES[loss](weight=weight)
    if weight != 1:
        raise UserError(
            f"box_weight {weight:g}: is for a box_loss given by name; {type(loss).__name__} has a weight of its own"
        )
    return loss
