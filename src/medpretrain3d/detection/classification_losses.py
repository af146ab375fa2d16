"""Classification losses over very many anchors of which few hold an object: which count, and how much."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medpretrain3d.configurable import Configurable
from medpretrain3d.detection.labels import BACKGROUND, IGNORED
from medpretrain3d.detection.losses import sigmoid_focal_loss
from medpretrain3d.processes import among_lowest, mean_over_samples, total
from medpretrain3d.randomness import counter_random, derived_seeds, row_seeds
from medpretrain3d.values import Count, NonNegative, PositiveShare, Rows, Share, Whole


class ClassificationLoss(Configurable):
    """Anchors' logits and labels of a batch in, one weighted scalar out. Subclasses implement the call.

    Example:
        >>> import torch
        >>> from medpretrain3d.detection import ClassificationLoss
        >>> class LogLoss(ClassificationLoss):
        ...     def __call__(self, logits, labels, num_images):
        ...         return torch.nn.functional.softplus(-logits[labels >= 0]).mean()
        >>> LogLoss()(logits=torch.zeros(2, 1), labels=torch.tensor([0, -1]), num_images=1)
        tensor(0.6931)
    """

    def __call__(self, logits: Tensor, labels: Tensor, num_images: int) -> Tensor:
        """`logits` (N, K) and `labels` (N,) over the anchors of `num_images` images; BACKGROUND and IGNORED apply."""
        raise NotImplementedError("a ClassificationLoss subclass implements the call")


class HardNegativeBCE(ClassificationLoss):
    """Binary cross-entropy on a sample of anchors with hard negatives, pooled over the batch (as nnDetection).

    Positives are drawn at random up to their share of the sample, at least one if there is any; negatives at random
    from the `pool` times as many hardest ones, as many as keep the share. The batch is that of all processes, of which
    each trains its own anchors of the sample; an anchor's luck is a function of its image's seed, see
    `medpretrain3d.randomness`.

    Args:
        anchors_per_image: largest size of the sample.
        positive_fraction: share of positives.
        pool: how many times more of the hardest negatives are candidates than are drawn.
        min_negatives_per_image: drawn also where the share would allow fewer: two negatives (nnDetection's number for
            any batch without objects) teach little about scans in which nothing is to be found.
        weight: factor of the loss.

    Example:
        >>> import torch
        >>> from medpretrain3d.detection import HardNegativeBCE
        >>> HardNegativeBCE()(logits=torch.zeros(2, 1), labels=torch.tensor([0, -1]), num_images=1)  # ln(2)
        tensor(0.6931)
    """

    def __init__(
        self,
        anchors_per_image: Rows = 32,
        positive_fraction: PositiveShare = 1 / 3,
        pool: Count = 20,
        min_negatives_per_image: Whole = 8,
        weight: NonNegative = 1.0,
    ) -> None:
        self.anchors_per_image = anchors_per_image
        self.positive_fraction = positive_fraction
        self.pool = pool
        self.min_negatives_per_image = min_negatives_per_image
        self.weight = weight

    def __call__(self, logits: Tensor, labels: Tensor, num_images: int) -> Tensor:
        """Return mean over the sampled anchors and classes; see `ClassificationLoss`."""
        sampled, is_sampled = self._candidates(logits.detach().float(), labels, num_images)
        logits = logits.index_select(0, sampled).float()
        one_hot = _one_hot(labels.index_select(0, sampled), logits)
        loss = F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none")
        loss = torch.where(is_sampled[:, None], loss, 0).sum()
        return self.weight * mean_over_samples(loss, is_sampled.sum() * logits.shape[1])  # 0 where all is ignored

    def sample(self, logits: Tensor, labels: Tensor, num_images: int) -> Tensor:
        """Return indices of the sampled anchors of this process: positives, then negatives."""
        sampled, is_sampled = self._candidates(logits, labels, num_images)
        return sampled[is_sampled]

    def _candidates(self, logits: Tensor, labels: Tensor, num_images: int) -> tuple[Tensor, Tensor]:
        """Return the anchors that may be in the sample (S,), as many as the counts tell, and whether they are: (S,).

        All of one process are; of several, which each know but their own, some are not.
        """
        is_positive, is_background = labels >= 0, labels == BACKGROUND
        own = torch.stack([is_positive.sum(), is_background.sum()])
        of_all = total(torch.cat([own.new_full((1,), num_images), own]))
        # The one time that the host waits: with the counts, no shape below depends on data.
        own_positives, own_background, images, num_positives, num_background = torch.cat([own, of_all]).tolist()
        share = round(self.anchors_per_image * images * self.positive_fraction)
        num_positives = min(num_positives, max(1, share))  # a sample of one anchor would never hold an object
        num_negatives = max(
            round(num_positives * (1 / self.positive_fraction - 1)), self.min_negatives_per_image * images
        )
        num_negatives = min(num_negatives, num_background)

        luck = _luck(len(labels), num_images, labels.device)
        positives, background = _rows_of(is_positive, own_positives), _rows_of(is_background, own_background)
        positives, is_drawn = _lowest(positives, luck[positives], num_positives)
        easiness = _rising_bits(-logits[background].amax(dim=1))
        # Of equally hard ones, as in air, chance decides: their order on a process must not.
        ranking = (easiness << 32) | (luck[background] & 0xFFFFFFFF)
        hardest, is_hard = _lowest(background, ranking, min(self.pool * num_negatives, num_background))
        worst = torch.iinfo(torch.int64).max
        negatives, is_negative = _lowest(hardest, luck[hardest].masked_fill(~is_hard, worst), num_negatives)
        return torch.cat([positives, negatives]), torch.cat([is_drawn, is_negative])


class FocalLoss(ClassificationLoss):
    """Focal loss over all anchors, divided by the number of positives (Lin et al., 2017).

    Args:
        alpha: weight of the positives; `1 - alpha` of the negatives.
        gamma: how fast easy anchors fade.
        weight: factor of the loss.

    Example:
        >>> import torch
        >>> from medpretrain3d.detection import FocalLoss
        >>> FocalLoss()(logits=torch.zeros(2, 1), labels=torch.tensor([0, -1]), num_images=1)  # ln(2) / 4
        tensor(0.1733)
    """

    def __init__(self, alpha: Share = 0.25, gamma: NonNegative = 2.0, weight: NonNegative = 1.0) -> None:
        self.alpha = alpha
        self.gamma = gamma
        self.weight = weight

    def __call__(self, logits: Tensor, labels: Tensor, num_images: int) -> Tensor:
        """Return sum over anchors and classes per positive anchor of all processes; see `ClassificationLoss`."""
        counted = (labels != IGNORED)[:, None]
        logits = torch.where(counted, logits.float(), 0)  # what is not finite does not count
        loss = sigmoid_focal_loss(logits, _one_hot(labels, logits), self.alpha, self.gamma)
        return self.weight * mean_over_samples(torch.where(counted, loss, 0).sum(), (labels >= 0).sum())


def _rows_of(mask: Tensor, count: int) -> Tensor:
    """Return the rows (count,) int64 in which a mask (N,) is true, as many as there are, rising; no wait for them."""
    return torch.nonzero_static(mask, size=count)[:, 0]


def _lowest(rows: Tensor, values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Choose the rows (n,) whose values are among the `count` lowest of all processes.

    Returns:
        As many rows as this process can have of them (k,), rising as `rows` are, and which of these it has (k,) bool.
    """
    most = min(count, len(rows))
    place = torch.nonzero_static(among_lowest(values, count), size=most, fill_value=-1)[:, 0]
    return rows[place], place >= 0


def _one_hot(labels: Tensor, logits: Tensor) -> Tensor:
    """Return (N, K) with a 1 at the label; a row of zeros for background."""
    return (labels[:, None] == torch.arange(logits.shape[1], device=labels.device)).to(logits.dtype)


def _luck(num_anchors: int, num_images: int, device: torch.device) -> Tensor:
    """Return a random number (N,) int64 for each of the anchors of all images."""
    per_image = -(-num_anchors // num_images)
    seeds = derived_seeds(row_seeds(num_images, device), "anchors")
    return counter_random(seeds, per_image).flatten()[:num_anchors]


def _rising_bits(values: Tensor) -> Tensor:
    """Return Int64 numbers of 32 bits in the order of float32 values that are finite."""
    bits = values.float().view(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
