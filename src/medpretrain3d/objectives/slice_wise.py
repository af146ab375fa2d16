"""Restoring whole slices or slabs."""

from __future__ import annotations

from typing import Literal

from medpretrain3d.backbones import Backbone, TokenBackbone
from medpretrain3d.errors import UserError
from medpretrain3d.objectives.mae import MAE
from medpretrain3d.objectives.masked import LossOn
from medpretrain3d.objectives.masking import Triple
from medpretrain3d.values import Layers, LayersOrNone, OpenShare, OpenShares, Steps

Orientation = Literal["axial", "coronal", "sagittal"]
ORIENTATIONS = ("axial", "coronal", "sagittal")  # in the order of the axis they cut: D, H, W


class SliceWise(MAE):
    """Masked autoencoding that hides whole slices instead of blocks: what lies between two slices must be understood.

    Args:
        backbone: the encoder to train.
        mask_ratio: share of slabs that are hidden; of a pair (a, b) a share is drawn for each batch of all processes.
        slab: neighbouring slices that are hidden together; by default 1, for a transformer the edge of its patch.
        orientation: which slices.
        loss_on: `hidden` voxels alone, or `all`.
        normalize_targets: restore each patch of a transformer, or slab, with its own mean and deviation taken out.
        decoder_depth: transformer blocks of a transformer's decoder.
        decoder_stride: as in `MAE`.

    Raises:
        UserError: an unknown orientation, a ratio that is no share, or slabs that are no whole number of patches.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.objectives import SliceWise
        >>> objective = SliceWise(ResEnc("XXS"), mask_ratio=0.5, slab=2, orientation="axial")
        >>> batch = {"image": torch.rand(2, 1, 16, 16, 16), "seed": torch.tensor([0, 1])}
        >>> output = objective(batch)
        >>> output.loss.backward()
        >>> sorted(output.preview)
        ['input', 'masked', 'restored']
    """

    def __init__(
        self,
        backbone: Backbone,
        mask_ratio: OpenShare | OpenShares = 0.75,
        slab: Layers | None = None,
        orientation: Orientation = "axial",
        loss_on: LossOn = "hidden",
        normalize_targets: bool = False,
        decoder_depth: LayersOrNone = 2,
        decoder_stride: Steps | None = None,
    ) -> None:
        if orientation not in ORIENTATIONS:
            raise UserError(f"SliceWise: got orientation '{orientation}', wanted one of {', '.join(ORIENTATIONS)}")
        axis = ORIENTATIONS.index(orientation)
        least = backbone.patch_size if isinstance(backbone, TokenBackbone) else (1, 1, 1)
        block = _replaced(least, axis, least[axis] if slab is None else slab)
        super().__init__(backbone, mask_ratio, block, loss_on, normalize_targets, decoder_depth, decoder_stride)
        self.axis = axis

    def block(self, shape: Triple) -> Triple:
        """Return the slab, across the whole patch."""
        return _replaced(shape, self.axis, self.mask_block[self.axis])


def _replaced(edges: Triple, axis: int, edge: int) -> Triple:
    d, h, w = (edge if index == axis else other for index, other in enumerate(edges))
    return (d, h, w)
