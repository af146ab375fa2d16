"""Supervised classification of cases."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medpretrain3d.backbones import Backbone
from medpretrain3d.errors import UserError
from medpretrain3d.objectives.base import Batch, Objective, ObjectiveOutput
from medpretrain3d.processes import mean_over_samples
from medpretrain3d.values import ChannelsOrNone, NonNegative


class CaseClassification(Objective):
    """Tell the label of a case from a crop of it.

    Features of the coarsest level, or all tokens, are averaged over space and pass through a linear map, or through one
    hidden layer. Wants `data.views` CaseLabelView, whose table says whether a case has one label (cross-entropy) or any
    number of them (binary cross-entropy).

    Args:
        backbone: the encoder to train.
        classes: the names of the labels, as the one entry of a tuple; taken from the table when a recipe is run.
        hidden_channels: width of a hidden layer; 0 for none.
        class_weights: by name, 1 where absent: of a case's loss where it has one label, of the presence of a label
            where it may have several.

    Raises:
        UserError: no labels, a weight for a label that does not exist, or a backbone with branches for detection; in
            `forward`, a batch without labels.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.objectives import CaseClassification
        >>> objective = CaseClassification(ResEnc("XXS"), classes=(("benign", "malignant"),))
        >>> batch = {"image": torch.rand(2, 1, 16, 16, 16), "seed": torch.tensor([0, 1])}
        >>> batch["case_label"] = torch.tensor([1, 0])
        >>> output = objective(batch)
        >>> output.loss.backward()
        >>> output.loss.shape, sorted(output.logs)
        (torch.Size([]), ['accuracy'])
    """

    paradigm = "supervised"
    views = ("CaseLabelView",)

    def __init__(
        self,
        backbone: Backbone,
        classes: tuple[tuple[str, ...], ...],
        hidden_channels: ChannelsOrNone = 0,
        class_weights: Mapping[str, NonNegative] | None = None,
    ) -> None:
        super().__init__()
        if len(classes) != 1 or not classes[0]:
            raise UserError(
                f"CaseClassification: got classes {[list(names) for names in classes]}, wanted the labels of one "
                "table; set data.views to medpretrain3d.loading.case_labels.CaseLabelView"
            )
        names, weights = classes[0], class_weights or {}
        if unknown := sorted(weights.keys() - set(names)):
            raise UserError(
                f"CaseClassification: class_weights names '{unknown[0]}', which is no label; labels: {', '.join(names)}"
            )
        if backbone.encoder is not backbone:
            raise UserError(
                f"CaseClassification: got a {type(backbone).__name__}, whose branches no label would train; "
                f"pretrain the {type(backbone.encoder).__name__} inside it"
            )
        self.backbone = backbone
        self.names = tuple(names)
        self.patch_stride = backbone.levels[-1].stride
        channels = backbone.levels[-1].channels
        hidden = [nn.Linear(channels, hidden_channels), nn.GELU()] if hidden_channels else []
        self.head = nn.Sequential(*hidden, nn.Linear(hidden_channels or channels, len(names)))
        self.class_weight: Tensor
        weight = torch.tensor([float(weights.get(name, 1.0)) for name in names])
        self.register_buffer("class_weight", weight, persistent=False)

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """`image` (B, C, D, H, W) and `case_label`, (B,) int64 or (B, K) 0 and 1, to the loss and the accuracy."""
        if "case_label" not in batch:
            raise UserError(
                "CaseClassification: the batch has no case_label; set data.views to "
                "medpretrain3d.loading.case_labels.CaseLabelView"
            )
        features = self.backbone(batch["image"])[-1].float()  # (B, C, d, h, w)
        logits, target = self.head(features.mean(dim=(2, 3, 4))).float(), batch["case_label"]
        if target.ndim == 1:
            weight = self.class_weight[target]
            loss = F.cross_entropy(logits, target, self.class_weight, reduction="sum")
            # Per weight of the cases, of all processes: cases of heavy classes are not dealt out evenly.
            loss = mean_over_samples(loss, weight.sum(), least=torch.finfo(torch.float32).tiny)
            right = logits.argmax(dim=1) == target
        else:
            loss = F.binary_cross_entropy_with_logits(logits, target.float(), pos_weight=self.class_weight)
            right = (logits > 0) == (target > 0)
        preview = {} if self.training else self._preview(batch["image"][0, 0], features[0], target[0])
        return ObjectiveOutput(loss, {"accuracy": right.float().mean()}, preview)

    @torch.no_grad()
    def _preview(self, image: Tensor, features: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the crop, and how likely its label looks from each place of the coarsest level (Zhou et al., 2016)."""
        logits = self.head(features.movedim(0, -1)).float()  # (d, h, w, K)
        share, label = (logits.softmax(dim=-1), target) if target.ndim == 0 else (logits.sigmoid(), target.argmax())
        places = F.interpolate(2 * share[None, None, ..., int(label)] - 1, image.shape, mode="trilinear")
        return {"input": image, f"{self.names[int(label)]}?": places[0, 0]}
