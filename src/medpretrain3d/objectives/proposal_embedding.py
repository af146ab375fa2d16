"""The encoder's embedding of each proposal, learned by the box head (DETReg)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medpretrain3d.boxes import Targets
from medpretrain3d.detection import Detector
from medpretrain3d.detection.losses import l1_loss
from medpretrain3d.errors import UserError
from medpretrain3d.objectives.projector import Projector, pool
from medpretrain3d.objectives.proposals import ProposalTask, dense, feature_channels, proposal_features
from medpretrain3d.precision.mixed import in_fp32
from medpretrain3d.processes import mean_over_samples
from medpretrain3d.values import Count, NonNegative

HEAD = "box_head"


class ProposalEmbedding(ProposalTask):
    """The box head learns what the frozen encoder says of each proposal, cut out (DETReg: Bar et al., 2022).

    The box is brought to `edge` voxels along each axis, and the encoder's coarsest features of it, averaged over space,
    are regressed by two layers from the mean over the proposal's anchors, with the mean absolute difference.

    Args:
        edge: voxels along each axis, a multiple of the encoder's coarsest stride.
        weight: factor of the loss.
    """

    def __init__(self, edge: Count = 32, weight: NonNegative = 1.0) -> None:
        super().__init__(weight)
        self.edge = edge

    def build(self, detector: Detector, frozen_encoder: bool) -> None:
        """See `ProposalTask`.

        Raises:
            UserError: also where the encoder learns, so that what is regressed would move, and can become nothing.
        """
        name = type(self).__name__
        width, coarsest = feature_channels(dense(detector, name), HEAD), detector.backbone.levels[-1]
        if not frozen_encoder:
            raise UserError(
                f"DetectorPretraining: {name} regresses what the encoder says, and the encoder learns as well; set "
                f"frozen_encoder to true and model.init_from to an encoder, or leave {name} out"
            )
        if any(self.edge % step for step in coarsest.stride):
            raise UserError(
                f"DetectorPretraining: {name}: got edge {self.edge}, wanted a multiple of the encoder's coarsest "
                f"stride {coarsest.stride}"
            )
        self.projector = Projector(width, (width, coarsest.channels))

    def forward(self, detector: Detector, image: Tensor, targets: list[Targets], seed: Tensor) -> Tensor:
        """See `ProposalTask`: mean over proposals and channels."""
        features, known = proposal_features(dense(detector, type(self).__name__), image, targets, HEAD)
        predicted = self.projector(features)
        with torch.no_grad():
            wanted = self.embeddings(detector, image, targets).to(predicted.device)
        with in_fp32(image.device):
            distance = l1_loss(predicted, wanted) / wanted.shape[1]
            return mean_over_samples(torch.where(known, distance, 0).sum(), known.sum())

    def embeddings(self, detector: Detector, image: Tensor, targets: list[Targets]) -> Tensor:
        """Compute what the encoder says of each proposal, cut out: (N, C) float32."""
        size, cut = (self.edge,) * 3, []
        for one, target in zip(image, targets, strict=True):
            low = target.boxes[:, :3].floor().clamp(min=0).long().tolist()
            high = target.boxes[:, 3:].ceil().long().tolist()
            for first, last in zip(low, high, strict=True):
                ranges = [slice(a, max(a + 1, b)) for a, b in zip(first, last, strict=True)]
                cut.append(F.interpolate(one[:, *ranges][None], size, mode="trilinear", align_corners=False)[0])
        if not cut:
            return image.new_zeros(0, detector.backbone.levels[-1].channels, dtype=torch.float32)
        training = detector.backbone.training
        detector.backbone.eval()  # nothing is drawn, and statistics of batch norms stay
        found = pool(detector.backbone(torch.stack(cut))[-1])
        detector.backbone.train(training)
        return found
