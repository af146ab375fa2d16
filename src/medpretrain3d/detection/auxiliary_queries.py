"""Further queries that only training asks: they teach the decoder faster than one query per object can."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from medpretrain3d.configurable import Configurable
from medpretrain3d.detection.labels import BACKGROUND, IGNORED
from medpretrain3d.detection.set_matching import UnitTargets
from medpretrain3d.errors import UserError
from medpretrain3d.processes import largest_count
from medpretrain3d.randomness import counter_random, derived_seeds, row_seeds, to_uniform
from medpretrain3d.values import Layers, NonNegative, Rows, Share

NUM_PAIRS = 100
"""Of positives and negatives in an image, as DINO has them."""


class NoisyObjects(NamedTuple):
    """Queries that start at objects of each image, spoilt, in groups of one size; Q of them."""

    boxes: Tensor
    """(B, Q, 6) unit boxes."""
    labels: Tensor
    """(B, Q)."""
    answers: list[Tensor]
    """(Q,) of each image, on the CPU: the object that a query is to restore, `BACKGROUND`, or `IGNORED`."""
    num_groups: int


class DenoisingQueries(Configurable, ABC):
    """Queries that start at spoilt objects. Subclasses implement `add_noise`.

    They are siblings: the parser hands the defaults of a class that an option names as its type on to what takes its
    place, and a recipe with one kind of noise would decide what another is by default.

    Args:
        label_noise: share of the labels that are replaced by a random class.
        box_noise: how far boxes are moved.
        weight: factor of the losses.

    Example:
        >>> from medpretrain3d.detection import ContrastiveDenoising, Denoising, DenoisingQueries
        >>> [issubclass(one, DenoisingQueries) for one in (Denoising, ContrastiveDenoising)]
        [True, True]
    """

    def __init__(self, label_noise: Share, box_noise: NonNegative, weight: NonNegative) -> None:
        self.label_noise = label_noise
        self.box_noise = box_noise
        self.weight = weight

    @abstractmethod
    def add_noise(
        self, targets: Sequence[UnitTargets], num_classes: int, device: torch.device | str = "cpu"
    ) -> NoisyObjects:
        """Return the queries of images.

        Args:
            targets: of each image, on the CPU.
            num_classes: labels are replaced by.
            device: of the boxes and labels returned; waited for where there are several processes.
        """

    def noisy_labels(self, bits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        """Replace a share of labels (B, Q) by random classes, as the last two of their random numbers (B, Q, 8) say."""
        replaced = to_uniform(bits[..., 6]) < self.label_noise
        return torch.where(replaced, (bits[..., 7] >> 1).abs() % num_classes, labels)


class Denoising(DenoisingQueries):
    """Queries that start at spoilt objects and are to restore them (Li et al., DN-DETR, 2022).

    Each group holds every object of an image once. Groups see neither each other nor the queries of detection, which
    must not see the answers.

    Args:
        groups: copies of the objects.
        label_noise: share of the labels that are replaced by a random class.
        box_noise: centres move up to this part of half the extent, extents change up to this part.
        weight: factor of the losses.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.boxes import Targets
        >>> from medpretrain3d.detection import DeformableDETR, Denoising
        >>> detector = DeformableDETR(
        ...     ResEnc("XXS"), num_classes=1, num_levels=2, channels=32, num_heads=2, hidden=32, num_queries=8,
        ...     encoder_layers=1, decoder_layers=1, auxiliary=Denoising(groups=2),
        ... )
        >>> targets = Targets(boxes=torch.tensor([[2.0, 2, 2, 8, 8, 8]]), labels=torch.tensor([0]))
        >>> sorted(detector.losses(torch.rand(1, 1, 16, 16, 16), [targets]))
        ['classification', 'denoising', 'giou', 'l1', 'proposals']
    """

    def __init__(
        self, groups: Layers = 5, label_noise: Share = 0.2, box_noise: NonNegative = 0.4, weight: NonNegative = 1.0
    ) -> None:
        super().__init__(label_noise, box_noise, weight)
        self.groups = groups

    def add_noise(
        self, targets: Sequence[UnitTargets], num_classes: int, device: torch.device | str = "cpu"
    ) -> NoisyObjects:
        """Return boxes (B, groups * M, 6), labels (B, groups * M) and the object each is to restore.

        M is the most objects of an image of any process: queries of a group see each other. Images with fewer are
        filled up with queries that do not count: their object is `IGNORED`.

        Args:
            targets: of each image, on the CPU, as the objects returned are.
            num_classes: labels are replaced by.
            device: of the boxes and labels returned; waited for where there are several processes.
        """
        device = torch.device(device)
        counts = [len(target.labels) for target in targets]
        most = largest_count(max(counts), device)
        seeds = derived_seeds(row_seeds(len(targets), device), "denoising")
        # Six numbers for the box and two for the label of each copy of each object.
        drawn = counter_random(seeds, most * self.groups * 8).view(len(targets), most, self.groups, 8)
        bits = drawn.transpose(1, 2).flatten(1, 2)  # (B, groups * M, 8)
        box, label = _copies(targets, most, self.groups, device)
        noise = (to_uniform(bits[..., :6]) * 2 - 1) * self.box_noise
        center = box[..., :3] + noise[..., :3] * box[..., 3:] / 2
        boxes = torch.cat([center, box[..., 3:] * (1 + noise[..., 3:])], dim=-1).clamp(1e-3, 1 - 1e-3)
        index = torch.arange(most)
        answers = [index.masked_fill(index >= count, IGNORED).repeat(self.groups) for count in counts]
        return NoisyObjects(boxes, self.noisy_labels(bits, label, num_classes), answers, self.groups)


class ContrastiveDenoising(DenoisingQueries):
    """Denoising with a negative beside each copy: a box further off that is no object (Zhang et al., DINO, 2023).

    Positives restore the object that they start at, negatives are background, so that of several queries near an object
    the nearest is learned to be it.

    Args:
        groups: copies of the objects, each with as many negatives; None for as many as make `num_pairs`.
        label_noise: share of the labels that are replaced by a random class.
        box_noise: sides of positives move by up to this part of half the extent, those of negatives by one to two
            times that.
        weight: factor of the losses.
        num_pairs: of positives and negatives in the image with the most objects of the batch, whatever their number;
            there is one group at least.

    Raises:
        UserError: both a number of groups and another `num_pairs`.

    Example:
        >>> import torch
        >>> from medpretrain3d.detection import ContrastiveDenoising
        >>> from medpretrain3d.detection.set_loss import UnitTargets
        >>> target = UnitTargets(boxes=torch.tensor([[0.5, 0.5, 0.5, 0.2, 0.2, 0.2]]), labels=torch.tensor([0]))
        >>> noisy = ContrastiveDenoising(groups=2).add_noise([target], num_classes=1)
        >>> noisy.boxes.shape, noisy.answers[0].tolist()
        (torch.Size([1, 4, 6]), [0, -1, 0, -1])
        >>> ContrastiveDenoising().add_noise([target], num_classes=1).num_groups
        100
    """

    def __init__(
        self,
        groups: Layers | None = None,
        label_noise: Share = 0.25,
        box_noise: NonNegative = 0.4,
        weight: NonNegative = 1.0,
        num_pairs: Rows = NUM_PAIRS,
    ) -> None:
        if groups is not None and num_pairs != NUM_PAIRS:
            raise UserError(
                f"ContrastiveDenoising: got groups {groups} and num_pairs {num_pairs}, wanted one of them: a number of "
                "groups makes as many pairs as there are objects; leave groups out"
            )
        super().__init__(label_noise, box_noise, weight)
        self.groups = groups
        self.num_pairs = num_pairs

    def add_noise(
        self, targets: Sequence[UnitTargets], num_classes: int, device: torch.device | str = "cpu"
    ) -> NoisyObjects:
        """See `Denoising`: a group is M positives, then their negatives, whose object is `BACKGROUND`."""
        device = torch.device(device)
        counts = [len(target.labels) for target in targets]
        most = largest_count(max(counts), device)
        groups = self.groups or max(1, self.num_pairs // max(1, most))
        seeds = derived_seeds(row_seeds(len(targets), device), "contrastive denoising")
        # Six numbers for the sides and two for the label of each copy, positive or negative, of each object.
        drawn = counter_random(seeds, most * groups * 16).view(len(targets), most, 2 * groups, 8)
        bits = drawn.transpose(1, 2).flatten(1, 2)  # (B, groups * 2 M, 8)
        box, label = _copies(targets, most, 2 * groups, device)
        is_negative = torch.arange(2).repeat_interleave(most).repeat(groups).to(device, non_blocking=True)
        share = (to_uniform(bits[..., :6]) + is_negative[:, None]) * self.box_noise
        sign = 1 - 2 * ((bits[..., :6] >> 40) & 1)  # bits that the share does not use
        half = box[..., 3:] / 2
        low, high = (
            box[..., :3] + side * half + sign[..., part] * share[..., part] * half
            for side, part in ((-1, slice(3)), (1, slice(3, 6)))
        )
        boxes = torch.cat([(low + high) / 2, high - low], dim=-1).clamp(1e-3, 1 - 1e-3)
        answers = []
        for count in counts:
            is_filled = torch.arange(most) >= count
            objects = torch.stack([torch.arange(most), torch.full((most,), BACKGROUND)])
            answers.append(objects.masked_fill(is_filled, IGNORED).flatten().repeat(groups))
        return NoisyObjects(boxes, self.noisy_labels(bits, label, num_classes), answers, groups)


class OneToMany(Configurable):
    """Further proposals as queries, several of which are given to each object (Jia et al., H-DETR, 2023).

    Args:
        num_queries: proposals after those of detection.
        repeats: queries given to each object.
        weight: factor of the losses.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.boxes import Targets
        >>> from medpretrain3d.detection import DeformableDETR, OneToMany
        >>> detector = DeformableDETR(
        ...     ResEnc("XXS"), num_classes=1, num_levels=2, channels=32, num_heads=2, hidden=32, num_queries=8,
        ...     encoder_layers=1, decoder_layers=1, auxiliary=OneToMany(num_queries=16, repeats=3),
        ... )
        >>> targets = Targets(boxes=torch.tensor([[2.0, 2, 2, 8, 8, 8]]), labels=torch.tensor([0]))
        >>> sorted(detector.losses(torch.rand(1, 1, 16, 16, 16), [targets]))
        ['classification', 'giou', 'l1', 'one_to_many', 'proposals']
    """

    def __init__(self, num_queries: Rows = 1500, repeats: Layers = 6, weight: NonNegative = 1.0) -> None:
        self.num_queries = num_queries
        self.repeats = repeats
        self.weight = weight

    def repeat(self, target: UnitTargets) -> UnitTargets:
        """Return every object `repeats` times."""
        return UnitTargets(target.boxes.repeat(self.repeats, 1), target.labels.repeat(self.repeats))


def _copies(targets: Sequence[UnitTargets], most: int, times: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return boxes (B, times * M, 6) and labels of the objects of each image, filled up to the most M of an image."""
    box = torch.tensor([0.5, 0.5, 0.5, 0.2, 0.2, 0.2]).repeat(len(targets), most, 1)
    label = torch.zeros(len(targets), most, dtype=torch.long)
    for row, target in enumerate(targets):
        count = len(target.labels)
        box[row, :count], label[row, :count] = target.boxes, target.labels
    box = box.to(device, non_blocking=True).repeat(1, times, 1)
    return box, label.to(device, non_blocking=True).repeat(1, times)


def groups_apart(sizes: Sequence[int], device: torch.device | str) -> Tensor | None:
    """Return (Q, Q) bool, True between queries of different groups of these sizes; None for a single group."""
    sizes = [size for size in sizes if size]
    if len(sizes) < 2:
        return None
    group = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)).to(device, non_blocking=True)
    return group[:, None] != group[None]
