"""VolumeFusion: tell how much of each of two volumes a voxel holds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medpretrain3d.backbones import Backbone
from medpretrain3d.errors import UserError
from medpretrain3d.objectives.base import Batch, Objective, ObjectiveOutput, seeds_on_host
from medpretrain3d.objectives.counter_rng import CounterRNG
from medpretrain3d.objectives.cuboids import Triple, random_cuboids, slices
from medpretrain3d.objectives.volume_decoder import VolumeDecoder
from medpretrain3d.processes import total
from medpretrain3d.values import Channels


class VolumeFusion(Objective):
    """Segment the mixing coefficient of two volumes fused in random boxes (Wang et al., 2023, arXiv:2306.16925).

    The first volume is mixed into the second with a coefficient alpha of 0, 1/4, 1/2, 3/4 or 1 in each box, later boxes
    over earlier ones, and with 0 outside. The label of a voxel is its alpha, and the loss is cross entropy plus Dice.
    Wants `data.views` VolumePairs.

    Args:
        backbone: the encoder to train.
        num_classes: evenly spaced coefficients from 0 to 1.
        num_boxes: smallest and largest number of boxes.
        box_edge: smallest and largest edge of a box in voxels; boxes are at most as large as the patch.

    Raises:
        UserError: ranges that hold nothing; in `forward`, a patch smaller than a box, or single volumes.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.objectives import VolumeFusion
        >>> objective = VolumeFusion(ResEnc("XXS"), num_boxes=(1, 3), box_edge=(4, 8))
        >>> batch = {"image": torch.rand(2, 2, 1, 16, 16, 16), "seed": torch.tensor([0, 1])}
        >>> output = objective(batch)
        >>> output.loss.backward()
        >>> output.loss.shape, sorted(output.logs)
        (torch.Size([]), ['cross_entropy', 'dice_loss'])
    """

    paradigm = "reconstruction"
    views = ("VolumePairs",)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: Channels = 5,
        num_boxes: tuple[int, int] = (10, 39),
        box_edge: tuple[int, int] = (8, 100),
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise UserError(f"VolumeFusion: got num_classes {num_classes}, wanted at least 2 coefficients, such as 5")
        for name, (low, high) in {"num_boxes": num_boxes, "box_edge": box_edge}.items():
            if not 1 <= low <= high:
                raise UserError(f"VolumeFusion: got {name} [{low}, {high}], wanted a rising range from at least 1")
        self.backbone = backbone
        self.num_classes = num_classes
        self.num_boxes = num_boxes
        self.box_edge = box_edge
        self.patch_stride = backbone.levels[-1].stride
        self.decoder = VolumeDecoder(backbone.levels, num_classes)

    @torch.no_grad()
    def draw_label(self, patch: Triple, seed: int | Tensor, device: torch.device | None = None) -> Tensor:
        """Label (D, H, W) int64 of a patch, made on a device; its alpha is `label / (num_classes - 1)`.

        Raises:
            UserError: the patch is smaller than the smallest box.
        """
        low, high = self.box_edge
        if min(patch) < low:
            raise UserError(
                f"VolumeFusion: patch {patch} is smaller than the smallest box, {low} voxels; "
                "use a larger data.patch or a smaller box_edge"
            )
        draws = CounterRNG(seed)
        count = draws.integer(*self.num_boxes)
        largest = (min(high, patch[0]), min(high, patch[1]), min(high, patch[2]))
        boxes = slices(*random_cuboids(draws, count, patch, (low, low, low), largest))
        label = torch.zeros(patch, dtype=torch.int64, device=device)
        for box, box_label in zip(boxes, draws.integers(0, self.num_classes - 1, count).tolist(), strict=True):
            label[box] = box_label
        return label

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """`image` (B, 2, C, D, H, W) and `seed` (B,) to the loss and pictures of the mixture and its coefficients."""
        image = batch["image"]
        if image.ndim != 6 or image.shape[1] != 2:
            raise UserError(
                f"VolumeFusion: got images of shape {tuple(image.shape)}, wanted pairs (B, 2, C, D, H, W); "
                "set data.views to VolumePairs"
            )
        d, h, w = image.shape[3:]
        labels = [self.draw_label((d, h, w), seed, image.device) for seed in seeds_on_host(batch)]
        label = torch.stack(labels)  # (B, D, H, W)
        alpha = self._alpha(label)[:, None]
        fused = torch.lerp(image[:, 1], image[:, 0], alpha.to(image.dtype))
        logits = self.decoder(self.backbone(fused)).float()  # fp32: exp of large logits overflows in half precision
        cross_entropy = F.cross_entropy(logits, label)
        dice = soft_dice_loss(logits.softmax(dim=1), label)
        preview = {
            "fused": fused[0, 0],
            "coefficient": 2 * alpha[0, 0] - 1,
            "predicted": 2 * self._alpha(logits[0].detach().argmax(dim=0)) - 1,
        }
        return ObjectiveOutput(
            cross_entropy + dice, {"cross_entropy": cross_entropy.detach(), "dice_loss": dice.detach()}, preview
        )

    def _alpha(self, label: Tensor) -> Tensor:
        return label / (self.num_classes - 1)


def soft_dice_loss(probabilities: Tensor, label: Tensor) -> Tensor:
    """One minus the Dice coefficient over the whole batch of all processes, mean over the classes that occur in it.

    Args:
        probabilities: (B, K, D, H, W), summing to 1 over K.
        label: (B, D, H, W) int64.
    """
    axes = (0, 2, 3, 4)
    true = torch.zeros_like(probabilities).scatter_(1, label[:, None], 1.0)
    sums = torch.stack([(probabilities * true).sum(axes), probabilities.sum(axes), true.sum(axes)])  # (3, K)
    inside, predicted, size = total(sums)
    occurs = size > 0
    dice = 2 * inside / (predicted + size).where(occurs, 1.0)  # of a class that does not occur, 0
    result: Tensor = 1 - dice.sum() / occurs.sum()
    return result
