"""Models Genesis: restore an image that was distorted in several ways at once."""

from __future__ import annotations

import torch
from torch import Tensor

from medpretrain3d.backbones import Backbone
from medpretrain3d.errors import UserError
from medpretrain3d.objectives.base import Batch, Objective, ObjectiveOutput, seeds_on_host
from medpretrain3d.objectives.counter_rng import CounterRNG
from medpretrain3d.objectives.distortions import (
    apply_curve,
    bezier_curve,
    in_paint,
    local_shuffle,
    out_paint,
    random_flips,
)
from medpretrain3d.objectives.volume_decoder import VolumeDecoder
from medpretrain3d.values import Rows, Share


class ModelsGenesis(Objective):
    """Undo local shuffling, a monotone intensity curve, and in- or out-painting (Zhou et al., 2021).

    The image is mirrored together with its target; nothing else touches the target. Mean squared error on all voxels,
    in the images' [-1, 1], which is four times the paper's in [0, 1].

    Args:
        backbone: the encoder to train.
        flip_p: probability of mirroring along a random axis, and of doing it again, up to three times.
        shuffle_p: probability of permuting voxels inside small blocks.
        curve_p: probability of an intensity curve; half of them turn bright into dark.
        paint_p: probability of in- or out-painting.
        in_paint_share: share of in-painting among the painted.
        num_shuffled_blocks: blocks per image; their edges grow with the patch, so any patch is shuffled alike.

    Raises:
        UserError: a probability outside [0, 1] or no blocks to shuffle.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.objectives import ModelsGenesis
        >>> objective = ModelsGenesis(ResEnc("XXS"), num_shuffled_blocks=100)
        >>> batch = {"image": torch.rand(2, 1, 16, 16, 16), "seed": torch.tensor([0, 1])}
        >>> output = objective(batch)
        >>> output.loss.backward()
        >>> sorted(output.preview)
        ['distorted', 'input', 'restored']
    """

    paradigm = "reconstruction"
    views = ("OneView", "LabeledView")

    def __init__(
        self,
        backbone: Backbone,
        flip_p: Share = 0.4,
        shuffle_p: Share = 0.5,
        curve_p: Share = 0.9,
        paint_p: Share = 0.9,
        in_paint_share: Share = 0.2,
        num_shuffled_blocks: Rows = 10_000,
    ) -> None:
        super().__init__()
        shares = {
            "flip_p": flip_p,
            "shuffle_p": shuffle_p,
            "curve_p": curve_p,
            "paint_p": paint_p,
            "in_paint_share": in_paint_share,
        }
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise UserError(f"ModelsGenesis: got {name} {value}, wanted a probability from 0 to 1")
        if num_shuffled_blocks < 1:
            raise UserError(
                f"ModelsGenesis: got num_shuffled_blocks {num_shuffled_blocks}, wanted at least 1; "
                "set shuffle_p to 0 for none"
            )
        self.backbone = backbone
        self.patch_stride = backbone.levels[-1].stride
        self.decoder = VolumeDecoder(backbone.levels, backbone.in_channels)
        self.flip_p = flip_p
        self.shuffle_p = shuffle_p
        self.curve_p = curve_p
        self.paint_p = paint_p
        self.in_paint_share = in_paint_share
        self.num_shuffled_blocks = num_shuffled_blocks

    @torch.no_grad()
    def distort(self, image: Tensor, seed: int | Tensor) -> tuple[Tensor, Tensor]:
        """Return an image (C, D, H, W) and its seed to what the network sees and what it has to restore."""
        draws = CounterRNG(seed)
        target = random_flips(image, draws, self.flip_p)
        seen = target
        if draws.bernoulli(self.shuffle_p):
            seen = local_shuffle(seen, draws, self.num_shuffled_blocks)
        if draws.bernoulli(self.curve_p):
            curve = bezier_curve(torch.from_numpy(draws.uniform(2, 2)), is_rising=draws.bernoulli(0.5))
            seen = apply_curve(seen, curve.to(image.device, non_blocking=True))
        if draws.bernoulli(self.paint_p):
            seen = in_paint(seen, draws) if draws.bernoulli(self.in_paint_share) else out_paint(seen, draws)
        return seen, target

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Return `image` (B, C, D, H, W) and `seed` (B,) to the loss and the pictures input, distorted, restored."""
        pairs = [self.distort(image, seed) for image, seed in zip(batch["image"], seeds_on_host(batch), strict=True)]
        distorted, target = (torch.stack(side) for side in zip(*pairs, strict=True))
        # fp32: squares of small errors are lost in half precision.
        restored = self.decoder(self.backbone(distorted)).float()
        loss = (restored - target.float()).square().mean()
        preview = {"input": target[0, 0], "distorted": distorted[0, 0], "restored": restored[0, 0].detach()}
        return ObjectiveOutput(loss, preview=preview)
