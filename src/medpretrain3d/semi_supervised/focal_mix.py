"""FocalMix: soft targets of every anchor, guessed from several views, and mixtures of crops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from medpretrain3d.boxes import Targets
from medpretrain3d.detection.base import finite_rows, targets_to_host, without_invalid
from medpretrain3d.detection.box_grid import Shape
from medpretrain3d.detection.dense import DenseDetector, level_shapes
from medpretrain3d.detection.labels import IGNORED
from medpretrain3d.detection.losses import soft_focal_loss
from medpretrain3d.errors import UserError
from medpretrain3d.loading.batches import generator_at
from medpretrain3d.loading.unlabeled_crops import UnlabeledBatch
from medpretrain3d.processes import mean_over_samples
from medpretrain3d.randomness import sample_seeds
from medpretrain3d.semi_supervised.base import SemiSupervised, UnlabeledLosses
from medpretrain3d.semi_supervised.mixing import mixed, mixed_objects, own_share
from medpretrain3d.semi_supervised.orientations import Orientation, orientations, turned_boxes
from medpretrain3d.values import Axis, Count, NonNegative, Positive, Share, ShareBelowOne


class FocalMix(SemiSupervised):
    """Every anchor learns a soft target: the mean of what the teacher says in several views (Wang et al., 2020).

    1. The teacher sees each unlabeled crop as it is and in other orientations. The class probabilities of each anchor
       are averaged over them, and sharpened: `p^(1/T) / (p^(1/T) + (1 - p)^(1/T))`.
    2. The crop is mixed with a labeled one (MixUp), the soft targets of its anchors with theirs; before, objects of the
       labeled one are mixed with others of their class there.
    3. The student learns the mixture by the focal loss for soft targets, divided by the sum of the targets. Boxes are
       learned from labeled crops alone.

    Unlike in the paper labeled crops are learned as they are, so that with weight 0 a run is the supervised one and
    masks of a Retina U-Net stay what they are. The partner is the labeled crop at the same place of the batch, so that
    it does not matter how a batch is dealt out to processes.

    Args:
        num_views: orientations that the teacher sees, K of the paper; at most those that mirroring and turns give.
        temperature: of the sharpening, T; 1 leaves probabilities as they are.
        mixup: eta of the Beta distribution from which shares are drawn; 0 mixes nothing.
        alpha: weight of a target of 1; `1 - alpha` of one of 0.
        gamma: how fast what is right already fades.
        mirror_axes: axes that views are mirrored along. Leave out the left-right axis (2) when left and right are
            different classes.
        turns: whether views are also turned by quarters in the (H, W) plane, which patch and strides have to allow.
        weight: as in `SemiSupervised`.
        burn_in: as in `SemiSupervised`.
        ramp: as in `SemiSupervised`.

    Raises:
        UserError: there are fewer orientations than `num_views`.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.boxes import Targets
        >>> from medpretrain3d.detection import FCOS
        >>> from medpretrain3d.loading.unlabeled_crops import UnlabeledBatch
        >>> from medpretrain3d.semi_supervised import FocalMix
        >>> student, teacher = (FCOS(ResEnc("XXS"), num_classes=1, fpn_channels=16) for _ in range(2))
        >>> image = torch.rand(1, 1, 16, 16, 16)
        >>> targets = [Targets(torch.tensor([[2.0, 2, 2, 8, 8, 8]]), torch.tensor([0]))]
        >>> unlabeled = UnlabeledBatch(image.flip(2), image.flip(2) + 0.1, seeds=(0,))
        >>> sorted(FocalMix().losses(student, teacher.eval(), image, targets, unlabeled).losses)
        ['classification']
    """

    counted: ClassVar[Mapping[str, str]] = {"num_sure_anchors": "anchors guessed to be of an object"}

    def __init__(
        self,
        num_views: Count = 4,
        temperature: Positive = 0.7,
        mixup: NonNegative = 0.2,
        alpha: Share = 0.25,
        gamma: NonNegative = 2.0,
        mirror_axes: tuple[Axis, ...] = (0, 1, 2),
        turns: bool = False,
        weight: NonNegative = 1.0,
        burn_in: ShareBelowOne = 0.0,
        ramp: Share = 0.27,
    ) -> None:
        super().__init__(weight, burn_in, ramp)
        most = len(orientations(mirror_axes, turns))
        if num_views > most:
            raise UserError(
                f"FocalMix: got num_views {num_views}, but mirror_axes {list(mirror_axes)} and turns {turns} give "
                f"{most}; set num_views to at most {most}"
            )
        self.num_views = num_views
        self.temperature = temperature
        self.mixup = mixup
        self.alpha = alpha
        self.gamma = gamma
        self.mirror_axes = tuple(mirror_axes)
        self.turns = turns

    def check_patch(self, detector: DenseDetector, patch: Shape) -> None:
        """See `SemiSupervised`: a turned crop has the size of the crop, and an anchor for each of its anchors.

        Raises:
            UserError: it has not.
        """
        if not self.turns:
            return
        if patch[1] != patch[2]:
            raise UserError(f"{self.option}: got turns and a patch {list(patch)}, wanted H = W; set turns to false")
        for level, stride in enumerate(detector.strides):
            turned_boxes(detector.anchors, level, stride)

    def losses(
        self,
        student: DenseDetector,
        teacher: DenseDetector,
        image: Tensor,
        targets: list[Targets],
        unlabeled: UnlabeledBatch,
    ) -> UnlabeledLosses:
        """See `SemiSupervised`; `classification`."""
        randoms = [generator_at(seed, 0) for seed in unlabeled.seeds]
        known = without_invalid(
            targets_to_host(targets)
        )  # before the networks, after which targets on a GPU would queue
        guesses, is_known = self.guess(teacher, unlabeled.image, randoms)
        partners = [row * len(image) // len(randoms) for row in range(len(randoms))]
        chosen = [known[row] for row in partners]
        others = [
            mixed_objects(image[row], one, random, self.mixup)
            for row, one, random in zip(partners, chosen, randoms, strict=True)
        ]
        shares = [own_share(random, self.mixup) for random in randoms]
        with sample_seeds(torch.tensor(unlabeled.seeds)):
            pyramid = student.pyramid(mixed(unlabeled.changed, torch.stack(others), shares))
            logits = student.classification_head(pyramid).flatten(0, 1).float()  # (U * A, K)
        labels = student.match(level_shapes(pyramid), chosen).to(logits.device).class_of_anchors()  # (U * A,)
        hard = (labels[:, None] == torch.arange(logits.shape[1], device=labels.device)).to(logits.dtype)
        soft = mixed(guesses, hard.view_as(guesses), shares).flatten(0, 1)
        finite = student.finite_predictions(logits)
        # What the partner does not know is unknown where some of it is to be seen.
        is_mixed = (torch.tensor(shares) < 1).to(labels.device, non_blocking=True).repeat_interleave(guesses.shape[1])
        counted = (finite & is_known.flatten() & ~(is_mixed & (labels == IGNORED)))[:, None]
        soft = torch.where(counted, soft, 0)
        loss = soft_focal_loss(torch.where(counted, logits, 0), soft, self.alpha, self.gamma)
        loss = mean_over_samples(torch.where(counted, loss, 0).sum(), soft.sum())
        return UnlabeledLosses(
            {"classification": student.where_any_is_finite(loss, finite)},
            {"num_sure_anchors": (guesses >= 0.5).any(dim=2).sum()},
        )

    @torch.no_grad()
    def guess(self, teacher: DenseDetector, image: Tensor, randoms: list[np.random.Generator]) -> tuple[Tensor, Tensor]:
        """Compute the soft targets of crops.

        Args:
            teacher: is asked once, for all views of all crops.
            image: (U, C, D, H, W).
            randoms: of each crop, from which its orientations are drawn.

        Returns:
            Probabilities (U, A, K) float32, 0 where not known; and whether all views of an anchor are finite, (U, A).
        """
        ways = [self.views(random) for random in randoms]
        seen = torch.stack([way.of_image(one) for one, of_crop in zip(image, ways, strict=True) for way in of_crop])
        pyramid = teacher.pyramid(seen)
        logits = teacher.classification_head(pyramid).float()  # (U * views, A, K)
        shapes = level_shapes(pyramid)
        in_place = [
            way.of_anchors(one, teacher.anchors, shapes, teacher.strides)
            for one, way in zip(logits, [way for of_crop in ways for way in of_crop], strict=True)
        ]
        views = torch.stack(in_place).unflatten(0, (len(image), -1))  # (U, views, A, K)
        is_known = finite_rows(views.transpose(1, 2).flatten(0, 1)).view(views.shape[0], -1)
        mean = torch.where(is_known[..., None], views.sigmoid().mean(dim=1), 0)
        return sharpened(mean, self.temperature), is_known

    def views(self, random: np.random.Generator) -> list[Orientation]:
        """Return the crop as it is, and other orientations, none of them twice."""
        first, *rest = orientations(self.mirror_axes, self.turns)
        return [first, *(rest[index] for index in random.permutation(len(rest))[: self.num_views - 1])]


def sharpened(probabilities: Tensor, temperature: float) -> Tensor:
    """Return probabilities moved away from a half: `p^(1/T) / (p^(1/T) + (1 - p)^(1/T))` (Berthelot et al., 2019)."""
    # As log-odds: at low temperatures both powers are 0 in float32.
    return torch.sigmoid(torch.logit(probabilities) / temperature)
