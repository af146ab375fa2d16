"""The three pretext tasks of SwinUNETR at once."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medpretrain3d.backbones import Backbone
from medpretrain3d.errors import UserError
from medpretrain3d.objectives.base import Batch, Objective, ObjectiveOutput, seeds_of_views, seeds_on_host
from medpretrain3d.objectives.counter_rng import CounterRNG
from medpretrain3d.objectives.cuboids import random_cuboids, slices
from medpretrain3d.objectives.nt_xent import nt_xent
from medpretrain3d.objectives.projector import pool, refuse_branches
from medpretrain3d.objectives.volume_decoder import StepwiseDecoder
from medpretrain3d.randomness import sample_seeds
from medpretrain3d.values import Channels, NonNegative, Positive, Share, Shares

NUM_TURNS = 4


class SwinMultiTask(Objective):
    """Tell the rotation, contrast two views, and fill cut-out boxes (Tang et al., 2022, arXiv:2111.14791).

    Both views are of one crop, each turned by a multiple of 90 degrees about the D axis, or of 180 degrees where H is
    not W, and with boxes of its own replaced by noise. The coarsest level is averaged over space for two linear heads,
    and decoded without skips to the whole view as it was before boxes were cut out: cross entropy, NT-Xent and mean
    absolute error, summed.

    The paper's code reads the rotation off the first cell of the coarsest level and the contrast off the second; here
    all cells are averaged.

    Args:
        backbone: the encoder to train, any but one with branches for detection.
        temperature: of NT-Xent.
        cut_share: share of the voxels in boxes, where boxes overlap counted twice.
        cut_edge: smallest and largest edge of a box, as shares of the patch.
        contrast_channels: length of the vectors that are contrasted.
        rotation_weight: of the cross entropy.
        contrast_weight: of NT-Xent.
        restoration_weight: of the absolute error.

    Raises:
        UserError: shares outside (0, 1) or a backbone with branches; in `forward`, one sample over all processes.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.objectives import SwinMultiTask
        >>> objective = SwinMultiTask(ResEnc("XXS"), contrast_channels=16)
        >>> batch = {"image": torch.rand(2, 1, 16, 16, 16), "seed": torch.tensor([0, 1])}
        >>> output = objective(batch)
        >>> output.loss.backward()
        >>> output.loss.shape, sorted(output.logs)
        (torch.Size([]), ['contrast', 'restoration', 'rotation'])
    """

    paradigm = "reconstruction"
    views = ("OneView", "LabeledView")

    def __init__(
        self,
        backbone: Backbone,
        temperature: Positive = 0.5,
        cut_share: Share = 0.3,
        cut_edge: Shares = (0.05, 0.25),
        contrast_channels: Channels = 512,
        rotation_weight: NonNegative = 1.0,
        contrast_weight: NonNegative = 1.0,
        restoration_weight: NonNegative = 1.0,
    ) -> None:
        super().__init__()
        refuse_branches("SwinMultiTask", backbone)
        if not 0 < cut_share < 1:
            raise UserError(f"SwinMultiTask: got cut_share {cut_share}, wanted a share between 0 and 1, such as 0.3")
        if not 0 < cut_edge[0] <= cut_edge[1] < 1:
            raise UserError(f"SwinMultiTask: got cut_edge {cut_edge}, wanted rising shares between 0 and 1")
        self.backbone = backbone
        self.temperature = temperature
        self.cut_share = cut_share
        self.cut_edge = cut_edge
        self.rotation_weight = rotation_weight
        self.contrast_weight = contrast_weight
        self.restoration_weight = restoration_weight
        coarsest = backbone.levels[-1]
        self.patch_stride = coarsest.stride
        self.rotation_head = nn.Linear(coarsest.channels, NUM_TURNS)
        self.contrast_head = nn.Linear(coarsest.channels, contrast_channels)
        self.decoder = StepwiseDecoder(coarsest, backbone.in_channels)

    @torch.no_grad()
    def draw_view(self, image: Tensor, draws: CounterRNG) -> tuple[Tensor, Tensor, int]:
        """Return a view of an image (C, D, H, W): with boxes cut out, without, and the quarter turns made."""
        is_square = image.shape[2] == image.shape[3]  # a quarter turn keeps the shape of such a patch alone
        turns = draws.integer(0, NUM_TURNS - 1) if is_square else 2 * draws.integer(0, 1)
        turned = image.rot90(turns, (2, 3))
        cut = self.draw_cuts(turned.shape[1:], draws, turned.device)
        noise = (2 * draws.noise(turned.shape, turned.device) - 1).to(turned.dtype)
        return torch.where(cut, noise, turned), turned, turns

    def draw_cuts(self, patch: tuple[int, ...], draws: CounterRNG, device: torch.device | None = None) -> Tensor:
        """Draw the cutout mask of a patch, (D, H, W) bool: as many boxes as first hold `cut_share` of its voxels."""
        d, h, w = patch
        low, high = ([max(1, int(share * size)) for size in patch] for share in self.cut_edge)
        wanted = self.cut_share * math.prod(patch)
        usual = math.prod((a + b) / 2 for a, b in zip(low, high, strict=True))
        enough = math.ceil(4 * wanted / usual)  # four times what is needed on average
        corners, edges = random_cuboids(draws, enough, (d, h, w), (low[0], low[1], low[2]), (high[0], high[1], high[2]))
        held = edges.prod(axis=1).cumsum().astype(np.float32)
        count = int((held < np.float32(wanted)).sum()) + 1
        cut = torch.zeros(patch, dtype=torch.bool, device=device)
        for box in slices(corners[:count], edges[:count]):
            cut[box] = True
        return cut

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Return `image` (B, C, D, H, W) and `seed` (B,) to the loss and the pictures input, masked, restored."""
        image = batch["image"]
        draws = [CounterRNG(seed) for seed in seeds_on_host(batch)]
        views = [self.draw_view(one, own) for _ in range(2) for one, own in zip(image, draws, strict=True)]
        cut = torch.stack([view[0] for view in views])  # (2 B, C, D, H, W), all first views, then all second ones
        whole = torch.stack([view[1] for view in views])
        turns = torch.tensor([view[2] for view in views]).to(image.device, non_blocking=True)
        with sample_seeds(seeds_of_views(batch["seed"], 2)):
            features = self.backbone(cut)
        pooled = pool(features[-1])
        rotation = F.cross_entropy(self.rotation_head(pooled).float(), turns)
        first, second = self.contrast_head(pooled).chunk(2)
        contrast = nt_xent(first, second, self.temperature)
        restored = self.decoder(features).float()
        restoration = (restored - whole.float()).abs().mean()
        loss = self.rotation_weight * rotation + self.contrast_weight * contrast + self.restoration_weight * restoration
        logs = {"rotation": rotation.detach(), "contrast": contrast.detach(), "restoration": restoration.detach()}
        preview = {"input": whole[0, 0], "masked": cut[0, 0], "restored": restored[0, 0].detach()}
        return ObjectiveOutput(loss, logs, preview)
