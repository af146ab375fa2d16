"""From maps of features to the vectors that are compared; thrown away after pretraining."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from medpretrain3d.backbones import Backbone
from medpretrain3d.errors import UserError


def pool(feature: Tensor) -> Tensor:
    """Return mean over space in fp32: a map (B, C, D, H, W) to (B, C)."""
    return feature.float().mean(dim=(2, 3, 4))


def pool_levels(features: list[Tensor]) -> Tensor:
    """Return means over space of every level side by side (B, sum of C)."""
    return torch.cat([pool(feature) for feature in features], dim=1)


class Projector(nn.Sequential):
    """Linear maps with a non-linearity between them: (..., in_channels) to (..., channels[-1]).

    A layer norm may stand before each of these where papers have a batch norm: it says the same of one sample whatever
    the batch and the number of processes.

    Args:
        in_channels: of the features.
        channels: of each linear map's output.
        with_norm: whether there are layer norms.
        activation: the class of what stands between.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        with_norm: bool = False,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        widths = [in_channels, *channels]
        layers: list[nn.Module] = []
        for index, (before, width) in enumerate(pairwise(widths)):
            if index:
                layers += [nn.LayerNorm(before)] if with_norm else []
                layers.append(nn.ReLU(inplace=True) if activation is nn.ReLU else activation())
            layers.append(nn.Linear(before, width))
        super().__init__(*layers)


def refuse_branches(method: str, backbone: Backbone) -> None:
    """Refuse a backbone with parts that only a detector uses.

    Raises:
        UserError: says which backbone to take.
    """
    if backbone.encoder is not backbone:
        raise UserError(
            f"{method}: got a {type(backbone).__name__}, whose branches no view would train; "
            f"pretrain the {type(backbone.encoder).__name__} inside it"
        )
