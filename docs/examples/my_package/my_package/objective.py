"""A pretraining task of one's own."""

from __future__ import annotations

from torch import Tensor

from medpretrain3d.backbones import Backbone
from medpretrain3d.objectives import Batch, Objective, ObjectiveOutput
from medpretrain3d.objectives.volume_decoder import VolumeDecoder
from medpretrain3d.randomness import counter_random, derived_seeds, to_uniform
from medpretrain3d.values import Positive


class Denoising(Objective):
    """Restore an image from a noisy one (Vincent et al., 2008).

    Args:
        backbone: the encoder to train.
        noise: largest value that is added to a voxel or taken from it; images are in [-1, 1].
    """

    paradigm = "reconstruction"

    def __init__(self, backbone: Backbone, noise: Positive = 0.5) -> None:
        super().__init__()
        self.backbone, self.noise = backbone, noise
        self.patch_stride = backbone.levels[-1].stride
        self.decoder = VolumeDecoder(backbone.levels, backbone.in_channels)

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Mean absolute error of the restored voxels."""
        image = batch["image"]
        noisy = image + self.noise * self._noise_like(image, batch["seed"])
        restored = self.decoder(self.backbone(noisy))
        loss = (restored - image).abs().mean()
        preview = {"noisy": noisy[0, 0].detach(), "restored": restored[0, 0].detach().float()}
        return ObjectiveOutput(loss, {"error": loss.detach()}, preview)

    @staticmethod
    def _noise_like(image: Tensor, seed: Tensor) -> Tensor:
        """Numbers in [-1, 1) that depend on the seeds of the samples alone, so that a run can be continued."""
        bits = counter_random(derived_seeds(seed, "noise"), image[0].numel())
        return 2 * to_uniform(bits).view_as(image) - 1
