"""Each proposal as a class of its own in two views (AlignDet)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medpretrain3d.boxes import Targets, mirror_boxes
from medpretrain3d.detection import Detector
from medpretrain3d.objectives.projector import Projector
from medpretrain3d.objectives.proposals import ProposalTask, dense, feature_channels, proposal_features
from medpretrain3d.objectives.teacher import Teacher
from medpretrain3d.precision.mixed import in_fp32
from medpretrain3d.processes import gather_rows, largest_count, mean_over_samples, rank
from medpretrain3d.randomness import derived_seeds, random_at
from medpretrain3d.values import Axis, Channels, NonNegative, Positive, Share

HEAD = "classification_head"


class ProposalContrast(ProposalTask):
    """The class tower tells a proposal, mirrored, from the others of the batch (AlignDet: Li et al., 2023).

    The student sees the crop mirrored, a moving average of it sees it as it is; each gives a vector for each proposal,
    the mean over its anchors through two layers. Those of one proposal attract, those of others in the batch of all
    processes are negatives. In AlignDet this replaces the classes; here it is beside them: pseudo-objects have kinds.

    Args:
        channels: of the vectors.
        temperature: divides the cosines.
        momentum: share of the moving average that stays in each step.
        mirror_axes: axes that the second view may be mirrored along, each with probability 0.5.
        weight: factor of the loss.
    """

    def __init__(
        self,
        channels: Channels = 256,
        temperature: Positive = 0.5,
        momentum: Share = 0.996,
        mirror_axes: tuple[Axis, ...] = (0, 1, 2),
        weight: NonNegative = 1.0,
    ) -> None:
        super().__init__(weight)
        self.channels = channels
        self.temperature = temperature
        self.momentum = momentum
        self.mirror_axes = tuple(mirror_axes)

    def build(self, detector: Detector, frozen_encoder: bool) -> None:
        """See `ProposalTask`."""
        width = feature_channels(dense(detector, type(self).__name__), HEAD)
        self.projector = Projector(width, (width, self.channels))
        self.teacher = Teacher(self._student(detector), self.momentum)

    def forward(self, detector: Detector, image: Tensor, targets: list[Targets], seed: Tensor) -> Tensor:
        """See `ProposalTask`: cross-entropy of the cosines, the mean over all proposals."""
        mirrored, carried = self.mirrored(image, targets, seed)
        queries, are_seen = proposal_features(dense(detector, type(self).__name__), mirrored, carried, HEAD)
        with torch.no_grad():
            teacher, projector = self.teacher.network.children()
            keys, are_known = proposal_features(dense(teacher, type(self).__name__), image, targets, HEAD)
            keys = projector(keys)
        with in_fp32(image.device):
            return contrast(self.projector(queries).float(), keys.float(), are_seen & are_known, self.temperature)

    def mirrored(self, image: Tensor, targets: list[Targets], seed: Tensor) -> tuple[Tensor, list[Targets]]:
        """Return each crop mirrored along axes that its seed chooses, and what is in it."""
        bits = derived_seeds(seed.cpu(), "mirrored proposals")
        images, carried = [], []
        for one, target, own in zip(image, targets, bits, strict=True):
            axes = [axis for axis in self.mirror_axes if int(random_at(own, axis)) & 1]
            images.append(one.flip([axis + 1 for axis in axes]))
            carried.append(Targets(mirror_boxes(target.boxes, one.shape[1:], axes), target.labels))
        return torch.stack(images), carried

    def after_load(self, detector: Detector) -> None:
        """See `ProposalTask`."""
        self.teacher.start_from(self._student(detector))

    def after_step(self, detector: Detector) -> None:
        """See `ProposalTask`."""
        self.teacher.follow(self._student(detector))

    def _student(self, detector: Detector) -> nn.ModuleDict:
        return nn.ModuleDict({"detector": detector, "projector": self.projector})


def contrast(queries: Tensor, keys: Tensor, known: Tensor, temperature: float) -> Tensor:
    """Compute the mean cross-entropy of finding the key (N, C) of each query (N, C) among those that are known (N,).

    They are looked for among the keys of all processes, which may have different N. 0, with a gradient of 0, where none
    is known.
    """
    count = len(keys)
    most = max(1, largest_count(count, keys.device))
    # Rows without a proposal stand behind those of a process that has fewer.
    everyone = gather_rows(F.pad(F.normalize(keys.detach(), dim=1), (0, 0, 0, most - count)))  # (W M, C)
    are_known = gather_rows(F.pad(known.to(keys.dtype), (0, most - count))[:, None])[:, 0] > 0
    cosine = F.normalize(queries, dim=1) @ everyone.T / temperature  # (N, W M)
    own = cosine.diagonal(rank() * most)
    spread = torch.where(are_known[None], cosine, -1e4).logsumexp(dim=1)
    return mean_over_samples(torch.where(known, spread - own, 0).sum(), known.sum())
