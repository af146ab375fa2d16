"""Supervised segmentation on many data sets at once."""

from __future__ import annotations

from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medpretrain3d.backbones import Backbone
from medpretrain3d.errors import UserError
from medpretrain3d.objectives.base import Batch, Objective, ObjectiveOutput, on_host
from medpretrain3d.objectives.decoders import UNetDecoder
from medpretrain3d.processes import total

ClassesOfSets = tuple[tuple[str, ...], ...]


class MultiTalent(Objective):
    """Segment the classes of many data sets, each set's with outputs of its own (Ulrich et al., 2023).

    "Liver" of one set and "liver" of another are two outputs: what one set calls background may be an object of the
    next. An image passes through the outputs of its own set alone; those of other sets are not computed and get a
    gradient of exactly zero. Wants `data.views` LabeledView; the published `data.dataset_balance` is 0.5.

    Args:
        backbone: the encoder to train; a U-Net decoder stands on its levels.
        classes: names of the classes of each data set; taken from the stores when a recipe is run.

    Raises:
        UserError: a data set without classes; in `forward`, a batch without labels.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.objectives import MultiTalent
        >>> objective = MultiTalent(ResEnc("XXS"), classes=(("liver", "spleen"), ("liver", "kidney", "aorta")))
        >>> batch = {"image": torch.rand(2, 1, 16, 16, 16), "seed": torch.tensor([0, 1])}
        >>> batch |= {"label_map": torch.zeros(2, 16, 16, 16, dtype=torch.long), "dataset": torch.tensor([1, 0])}
        >>> output = objective(batch)
        >>> output.loss.backward()
        >>> output.loss.shape, sorted(output.logs)
        (torch.Size([]), ['bce', 'dice'])
    """

    paradigm = "supervised"
    views = ("LabeledView",)

    def __init__(self, backbone: Backbone, classes: ClassesOfSets) -> None:
        super().__init__()
        if not classes or not all(classes):
            raise UserError(
                f"MultiTalent: got classes {[list(names) for names in classes]}, wanted at least one class in every "
                "data set; name labelled stores in data.store"
            )
        self.backbone = backbone
        self.classes = classes
        self.patch_stride = backbone.levels[-1].stride
        self.first_output = (0, *accumulate(len(names) for names in classes))
        self.decoder = UNetDecoder(backbone.levels, self.first_output[-1])
        # Taken out of the decoder: a map of all outputs of all sets would be most of the memory of a step.
        self.outputs = self.decoder.head
        self.decoder.head = nn.Identity()  # type: ignore[assignment]  # declared a convolution

    def compiled_parts(self) -> dict[str, nn.Module]:
        """Return all but the outputs, of which each image takes those of its own set: they are not called as one."""
        parts = super().compiled_parts()
        del parts["outputs"]
        return parts

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """`image` (B, C, D, H, W), `label_map` (B, D, H, W) and `dataset` (B,) to the loss; pictures of both maps."""
        if "label_map" not in batch:
            raise UserError(
                "MultiTalent: the batch has no label_map; set data.views to medpretrain3d.loading.views.LabeledView"
            )
        image, label_map = batch["image"], batch["label_map"]
        features = self.decoder(self.backbone(image))
        tally, first_logits = self._tally(features, label_map, on_host(batch, "dataset").tolist())
        tally = total(tally)
        bce, dice = bce_and_dice(tally)
        num_shown = (tally[1] > 0).sum()
        found = logits_to_labels(first_logits.detach())
        return ObjectiveOutput(
            (bce - dice).sum(),
            {"bce": bce.detach().sum() / num_shown, "dice": dice.detach().sum() / num_shown},
            {"input": image[0, 0].detach(), "true labels": label_map[0], "predicted labels": found},
        )

    def logits(self, feature: Tensor, dataset: int) -> Tensor:
        """Return full-resolution features (C, D, H, W) to the outputs (K, D, H, W) of the classes of one data set."""
        own = slice(self.first_output[dataset], self.first_output[dataset + 1])
        weight, bias = self.outputs.weight, self.outputs.bias
        assert isinstance(weight, Tensor)
        assert isinstance(bias, Tensor)
        return F.conv3d(feature[None], weight[own], bias[own])[0]

    def _tally(self, features: Tensor, label_map: Tensor, datasets: list[int]) -> tuple[Tensor, Tensor]:
        """The sums (5, K) of `label_sums` over the batch for every output of every set; logits of the first image."""
        tally = features.new_zeros(5, self.first_output[-1], dtype=torch.float32)
        shown: list[Tensor] = []
        for feature, labels, dataset in zip(features, label_map, datasets, strict=True):
            logits = self.logits(feature, dataset).float()
            own = torch.arange(self.first_output[dataset], self.first_output[dataset + 1], device=tally.device)
            tally = tally.index_add(1, own, label_sums(logits, labels))
            shown = shown or [logits]
        return tally, shown[0]


def label_sums(logits: Tensor, label_map: Tensor) -> Tensor:
    """Compute the loss terms of one image, five sums over its voxels for each class (5, K).

    Binary cross-entropy, number of voxels, probability inside objects, probability, size of objects. `logits` are
    (K, D, H, W); `label_map` (D, H, W) holds `k + 1` inside objects of class k.
    """
    names = torch.arange(1, len(logits) + 1, device=logits.device)
    truth = (label_map[None] == names[:, None, None, None]).to(logits)  # (K, D, H, W)
    bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    probability = logits.sigmoid()
    summed = (bce, torch.ones_like(truth), probability * truth, probability, truth)
    return torch.stack([values.flatten(1).sum(1) for values in summed])


def bce_and_dice(tally: Tensor, smooth: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Cross-entropy per voxel and soft Dice, both (K,), 0 for a class that the batch could not have shown.

    Dice takes the batch as one volume (Ulrich et al., 2023, eq. 1), over all processes. `tally` is a sum of
    `label_sums` (5, K); all sums of a class are 0 where no voxels were counted.
    """
    bce, count, inside, probability, size = tally
    return bce / count.clamp(min=1), 2 * inside / (probability + size + smooth)


def logits_to_labels(logits: Tensor) -> Tensor:
    """Return the label map (D, H, W) of outputs (K, D, H, W): the most probable class, 0 where none is over a half."""
    best = logits.max(dim=0)
    return torch.where(best.values > 0, best.indices + 1, torch.zeros_like(best.indices))
