"""The network of the second stage: cubes about a candidate at several scales, and what they say about its odds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medpretrain3d.backbones import Backbone, check_patch
from medpretrain3d.configurable import Configurable
from medpretrain3d.errors import UserError
from medpretrain3d.values import Channels, Count, Positive

LEAST, MOST = 1e-30, 1 - 1e-9
"""Scores that still have odds: what float32 can tell from 0 and from 1 stays apart."""


class Rescorer(Configurable, nn.Module):
    """Says how the odds of a candidate change when one looks again, closely and at what surrounds it.

    Every cube about its center is seen by the same encoder; the means of all levels over all cubes go through a norm
    and one linear layer, which begins at 0: until it is trained, no score changes.

    Args:
        backbone: the encoder.
        num_classes: of the candidates.
        edges_mm: of the cubes: one that holds an object, and one for what surrounds it.
        edge_vox: to which each cube is resampled, a multiple of the encoder's coarsest stride.

    Raises:
        UserError: no cube, or another number of voxels than the encoder takes.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.inference import Rescorer
        >>> rescorer = Rescorer(ResEnc("XXS"), num_classes=2, edges_mm=(20.0, 60.0), edge_vox=16)
        >>> rescorer(torch.zeros(3, 2, 1, 16, 16, 16)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: Channels,
        edges_mm: tuple[Positive, ...] = (40.0, 100.0),
        edge_vox: Count = 32,
    ) -> None:
        super().__init__()
        if not edges_mm:
            raise UserError("edges_mm []: wanted the edge of one cube at least")
        check_patch((edge_vox, edge_vox, edge_vox), backbone.levels[-1].stride)
        self.backbone = backbone
        self.num_classes = num_classes
        self.edges_mm = tuple(edges_mm)
        self.edge_vox = edge_vox
        width = len(self.edges_mm) * sum(level.channels for level in backbone.levels)
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, num_classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, cubes: Tensor) -> Tensor:
        """Return what is added to the log-odds of each class, (N, K) float32, of cubes (N, S, C, e, e, e)."""
        maps = self.backbone(cubes.flatten(0, 1))
        means = torch.cat([one.float().mean(dim=(2, 3, 4)) for one in maps], dim=1)  # (N * S, sum of channels)
        added: Tensor = self.linear(self.norm(means.unflatten(0, cubes.shape[:2]).flatten(1)))
        return added.float()


def log_odds(scores: Tensor) -> Tensor:
    """Return the log-odds of scores (N,), float64; those of 0 and 1 are finite."""
    return torch.logit(scores.double().clamp(LEAST, MOST))


def combined(scores: Tensor, added: Tensor) -> Tensor:
    """Return the scores (N,) float64 whose odds are those of the first stage times what the second says of them.

    Monotone in both; a score to which nothing is added stays as it is, to the bit.

    Args:
        scores: (N,) of the first stage.
        added: (N,) to its log-odds.
    """
    return torch.where(added == 0, scores.double(), torch.sigmoid(log_odds(scores) + added.double()))
