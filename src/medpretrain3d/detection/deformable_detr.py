"""Deformable DETR in 3D: queries look where the encoder points; one prediction per object, nothing to suppress."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from medpretrain3d.backbones.base import Backbone
from medpretrain3d.backbones.norm import GroupNorm
from medpretrain3d.boxes import Detections, Targets, clip_boxes, has_extent
from medpretrain3d.detection.auxiliary_queries import DenoisingQueries, OneToMany, groups_apart
from medpretrain3d.detection.base import Detector, Part, finite_rows
from medpretrain3d.detection.box_grid import Shape
from medpretrain3d.detection.deformable_layers import (
    DecoderLayer,
    EncoderLayer,
    cell_centers,
    mlp,
    sine_encoding,
)
from medpretrain3d.detection.layer_predictions import LayerPredictions, padded_regions
from medpretrain3d.detection.mask_head import InstanceMasks
from medpretrain3d.detection.set_loss import SetLoss
from medpretrain3d.detection.set_matching import UnitTargets, padded
from medpretrain3d.detection.unit_boxes import from_unit, to_unit
from medpretrain3d.errors import UserError
from medpretrain3d.transfer import to_host
from medpretrain3d.values import Channels, Layers, Rows, Share, ShareBelowOne

PRIOR = 0.01
"""Probability that every prediction starts with, as in RetinaNet."""


@dataclass(frozen=True)
class _Memory:
    """Encoder output of a batch: tokens (B, S, C) of the levels' cells, and the proposal of each cell."""

    tokens: Tensor
    shapes: list[Shape]
    objectness: Tensor  # (B, S, 1) logits
    boxes: Tensor  # (B, S, 6) unit boxes


@dataclass(frozen=True)
class _Output:
    """Predictions of one decoder layer: logits (B, Q, K) and unit boxes (B, Q, 6), float32."""

    logits: Tensor
    boxes: Tensor


class DeformableDETR(Detector):
    """Two-stage Deformable DETR with iterative box refinement (Zhu et al., 2021), three axes, pre-norm encoder.

    The encoder proposes a box per cell; the best become queries, and every decoder layer refines the boxes of the one
    before. Training matches each object with one query (Carion et al., 2020), on every layer. The defaults are the
    recipe of Eckstein et al. (2025) for volumes.

    Args:
        backbone: any backbone.
        num_classes: foreground classes; background is not one of them.
        num_levels: coarsest levels of the backbone that are looked at.
        channels: width of the transformer.
        encoder_layers: at least 1.
        decoder_layers: at least 1.
        num_heads: groups of channels in every attention.
        num_points: points read per head and level.
        hidden: width inside each layer.
        dropout: in every layer.
        num_queries: most objects that can be found in an image.
        criterion: matching costs and loss weights, `SetLoss()` or `VarifocalSetLoss()`; `None` is the former.
        auxiliary: queries added in training, `Denoising()`, `ContrastiveDenoising()` or `OneToMany()`; `None` for none,
            as published.
        score_threshold: detections below it are not returned.
        detections_per_image: detections returned at most.
        masks: a head for the masks of objects, `InstanceMasks()`; `None` for none.

    Raises:
        UserError: the backbone has fewer levels, or channels that heads do not divide.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.boxes import Targets
        >>> from medpretrain3d.detection import DeformableDETR
        >>> detector = DeformableDETR(
        ...     ResEnc("XXS"), num_classes=1, num_levels=2, channels=32, num_heads=2, hidden=32, num_queries=8,
        ...     encoder_layers=1, decoder_layers=1,
        ... )
        >>> image = torch.rand(1, 1, 16, 16, 16)
        >>> targets = Targets(boxes=torch.tensor([[2.0, 2, 2, 8, 8, 8]]), labels=torch.tensor([0]))
        >>> losses = detector.losses(image, [targets])
        >>> sorted(losses)
        ['classification', 'giou', 'l1', 'proposals']
        >>> with torch.no_grad():
        ...     detections = detector.eval().detect(image)
        >>> len(detections), detections[0].boxes.shape[1]
        (1, 6)
    """

    parts: ClassVar[Mapping[str, Part]] = {
        **dict.fromkeys(("project.", "level_position", "encoder.", "encoder_norm."), "neck"),
        **dict.fromkeys(("propose.", "objectness.", "proposal_box.", "query.", "decoder.", "refine."), "box"),
        "mask_head.": "box",
        **dict.fromkeys(("classifiers.", "label_content."), "labels"),
    }
    # Each layer of the decoder learns boxes of its own, so that the first few are a decoder; of the encoder only the
    # last is read.
    behind_layers: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("encoder_norm.", "propose.", "objectness.", "proposal_box.", "query."), "encoder."),
        **dict.fromkeys(("decoder.", "refine."), "encoder."),
        **dict.fromkeys(("mask_head.upsample.", "mask_head.output."), "mask_head.tower."),
    }

    def __init__(
        self,
        backbone: Backbone,
        num_classes: Channels,
        num_levels: Layers = 4,
        channels: Channels = 128,
        encoder_layers: Layers = 3,
        decoder_layers: Layers = 6,
        num_heads: Channels = 8,
        num_points: Layers = 4,
        hidden: Channels = 1024,
        dropout: ShareBelowOne = 0.1,
        num_queries: Rows = 300,
        criterion: SetLoss | None = None,
        auxiliary: DenoisingQueries | OneToMany | None = None,
        score_threshold: Share = 0.0,
        detections_per_image: Rows = 100,
        masks: InstanceMasks | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= num_levels <= len(backbone.levels):
            most = len(backbone.levels)
            raise UserError(f"num_levels {num_levels}: the backbone has {most} levels; give 1 to {most}")
        if channels % (2 * num_heads) or channels < 4:
            wanted = f"a multiple of twice num_heads, {2 * num_heads}, and at least 4"
            raise UserError(f"channels {channels}: must be {wanted}")
        self.backbone = backbone
        self.num_classes = num_classes
        self.num_levels = num_levels
        self.num_heads = num_heads
        self.num_points = num_points
        self.channels = channels
        self.num_queries = num_queries
        self.criterion = criterion or SetLoss()
        self.auxiliary = auxiliary
        self.score_threshold = score_threshold
        self.detections_per_image = detections_per_image

        self.project = nn.ModuleList(
            nn.Sequential(nn.Conv3d(level.channels, channels, 1), GroupNorm(math.gcd(32, channels), channels))
            for level in backbone.levels[-num_levels:]
        )
        self.level_position = nn.Parameter(torch.randn(num_levels, channels) * 0.02)
        size = (channels, hidden, num_levels, num_heads, num_points, dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*size) for _ in range(encoder_layers))
        self.encoder_norm = nn.LayerNorm(channels)
        self.propose = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.objectness = _classifier(channels, 1)
        self.proposal_box = mlp(channels, 6)
        self.box_code = channels // 4 * 2  # of each of a box's six numbers, as many sines as cosines
        self.query = nn.Sequential(nn.Linear(6 * self.box_code, 2 * channels), nn.LayerNorm(2 * channels))
        self.decoder = nn.ModuleList(DecoderLayer(*size) for _ in range(decoder_layers))
        self.classifiers = nn.ModuleList(_classifier(channels, num_classes) for _ in range(decoder_layers))
        self.refine = nn.ModuleList(mlp(channels, 6) for _ in range(decoder_layers))
        self.label_content = nn.Embedding(num_classes, channels) if isinstance(auxiliary, DenoisingQueries) else None
        self.mask_head = masks.head(backbone.levels) if masks else None

    def geometry(self) -> dict[str, Any]:
        """See `Detector`; heads and points share the rows of one map, whose shape their product gives."""
        own = {"num_levels": self.num_levels, "num_heads": self.num_heads, "num_points": self.num_points}
        return {**super().geometry(), **own}

    def losses(self, image: Tensor, targets: list[Targets]) -> dict[str, Tensor]:
        """Return weighted scalars for images (B, C, D, H, W).

        `classification`, `l1` and `giou` of the last decoder layer, their sum over the layers before it
        (`earlier_layers`) and for the encoder's `proposals`; `denoising` or `one_to_many` where such queries are asked.
        With `masks` also `mask_cross_entropy` and `mask_dice`.
        Queries that find something in an ignore region are left out of the classification.
        """
        d, h, w = image.shape[2:]
        # Before the network, after which targets on a GPU would queue; they stay on the CPU until they are matched.
        valid = self.valid_targets_on_host(targets)
        unit = [UnitTargets(to_unit(target.boxes, (d, h, w)), target.labels) for target in valid]
        regions = padded_regions([target.ignore for target in valid], (d, h, w)).to(image.device, non_blocking=True)
        features = self.backbone(image)
        memory = self._encode(features)
        anything = [UnitTargets(target.boxes, torch.zeros_like(target.labels)) for target in unit]
        asked = {"proposals": LayerPredictions(memory.objectness[None], memory.boxes[None], anything, regions)}

        wanted = self.num_queries + (self.auxiliary.num_queries if isinstance(self.auxiliary, OneToMany) else 0)
        references, content, position = self._proposed(memory, wanted)
        num_found = min(self.num_queries, references.shape[1])
        sizes = [num_found, references.shape[1] - num_found]
        if isinstance(self.auxiliary, DenoisingQueries):
            assert self.label_content is not None
            spoilt, labels, answers, num_groups = self.auxiliary.add_noise(unit, self.num_classes, image.device)
            references = torch.cat([references, spoilt], dim=1)
            content = torch.cat([content, self.label_content(labels).to(content.dtype)], dim=1)
            position = torch.cat([position, self._query_of(spoilt)[1].to(position.dtype)], dim=1)
            sizes += [spoilt.shape[1] // num_groups] * num_groups
        outputs = self._decode(memory, references, content, position, groups_apart(sizes, image.device))
        logits, boxes = torch.stack([one.logits for one in outputs]), torch.stack([one.boxes for one in outputs])
        asked["layers"] = LayerPredictions(logits[:, :, :num_found], boxes[:, :, :num_found], unit, regions)
        further = logits[:, :, num_found:], boxes[:, :, num_found:]
        if isinstance(self.auxiliary, OneToMany):
            asked["one_to_many"] = LayerPredictions(
                *further, [self.auxiliary.repeat(target) for target in unit], regions
            )
        elif isinstance(self.auxiliary, DenoisingQueries):
            given = torch.stack(answers).expand(len(outputs), -1, -1)
            asked["denoising"] = LayerPredictions(*further, unit, regions, given)

        found = self._losses_of_layers(asked)  # each (L,)
        of_layers = found.pop("layers")
        losses = {name: values[-1] for name, values in of_layers.items()} | {"proposals": _total(found["proposals"])}
        if len(outputs) > 1:
            losses["earlier_layers"] = _total({name: values[:-1] for name, values in of_layers.items()})
        if isinstance(self.auxiliary, OneToMany):
            losses["one_to_many"] = self.auxiliary.weight * _total(found["one_to_many"])
        elif isinstance(self.auxiliary, DenoisingQueries):
            assert self.label_content is not None
            nothing = 0 * self.label_content.weight.sum()  # takes part in every step, also without objects
            losses["denoising"] = self.auxiliary.weight * (nothing + _total(found["denoising"]))
        if self.mask_head is not None:
            losses |= self.mask_head.losses(features, image, valid)
        return losses

    @torch.no_grad()
    def detect(self, image: Tensor) -> list[Detections]:
        """Detections of each image (B, C, D, H, W), clipped to it, best score first; there is nothing to suppress."""
        d, h, w = image.shape[2:]
        return self._detections(*self.outputs(image), (d, h, w))

    @torch.no_grad()
    def launch(self, image: Tensor) -> Callable[[], list[Detections]]:
        """See `Detector`: the network runs, choosing the best queries is put off."""
        d, h, w = image.shape[2:]
        return partial(self._detections, *self.outputs(image), (d, h, w))

    @torch.no_grad()
    def _detections(self, logits: Tensor, unit: Tensor, image_shape: Shape) -> list[Detections]:
        """Wait once for the device: for the best queries of all images, and for how many predictions are finite."""
        finite = finite_rows(logits.flatten(0, 1), unit.flatten(0, 1)).view(logits.shape[:2])
        all_scores = logits.sigmoid().masked_fill(~finite[:, :, None], -1.0).flatten(1)
        best = all_scores.topk(min(self.detections_per_image, all_scores.shape[1]), dim=1)
        query, label = best.indices // self.num_classes, best.indices % self.num_classes
        of_query = unit.gather(1, query[:, :, None].expand(-1, -1, 6))
        found = clip_boxes(from_unit(of_query, image_shape), image_shape)
        boxes, scores, labels, num_finite = to_host([found, best.values, label, finite.sum()])
        self.count_predictions(finite.numel(), finite.numel() - int(num_finite))
        keep = (scores >= max(0.0, self.score_threshold)) & has_extent(boxes)
        return [Detections(boxes[row, kept], scores[row, kept], labels[row, kept]) for row, kept in enumerate(keep)]

    def outputs(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last decoder layer's logits (B, Q, K) and unit boxes (B, Q, 6), float32, of (B, C, D, H, W)."""
        memory = self._encode(self.backbone(image))
        last = self._decode(memory, *self._proposed(memory, self.num_queries), None)[-1]
        return last.logits, last.boxes

    def _encode(self, features: Sequence[Tensor]) -> _Memory:
        maps = [project(one) for project, one in zip(self.project, features[-self.num_levels :], strict=True)]
        shapes: list[Shape] = [(m.shape[2], m.shape[3], m.shape[4]) for m in maps]
        tokens = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)  # (B, S, C)
        level = torch.cat([torch.full((math.prod(s),), i, device=maps[0].device) for i, s in enumerate(shapes)])  # (S,)

        centers, channels = cell_centers(shapes, tokens.device), tokens.shape[2]
        place = sine_encoding(centers, 2 * math.ceil(channels / 6))[:, :channels]  # W leaves out a few low frequencies
        position = (place + self.level_position[level]).to(tokens.dtype)[None]
        references = centers[None].expand(tokens.shape[0], -1, -1)
        for layer in self.encoder:
            tokens = layer(tokens, position, references, shapes)
        tokens = self.encoder_norm(tokens)

        proposed = self.propose(tokens)
        # A cell proposes a box around itself, twice as long on each coarser level (Zhu et al., 2021, app. A.4).
        extents = (0.05 * 2.0 ** level[:, None]).clamp(max=0.5).expand(-1, 3)
        start = torch.logit(torch.cat([centers, extents], dim=1))
        boxes = (start + self.proposal_box(proposed).float()).sigmoid()
        return _Memory(tokens, shapes, self.objectness(proposed).float(), boxes)

    def _proposed(self, memory: _Memory, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes (B, Q, 6), content and position (B, Q, C) of the queries that the best proposals become."""
        ranking = memory.objectness[:, :, 0].nan_to_num(nan=-torch.inf)
        best = ranking.topk(min(count, ranking.shape[1]), dim=1).indices  # (B, Q)
        boxes = memory.boxes.detach().gather(1, best[:, :, None].expand(-1, -1, 6))
        return boxes, *self._query_of(boxes)

    def _query_of(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Content and position (B, Q, C) of queries that start at unit boxes (B, Q, 6)."""
        content, position = self.query(sine_encoding(boxes, self.box_code)).chunk(2, dim=2)
        return content, position

    def _decode(
        self, memory: _Memory, references: Tensor, content: Tensor, position: Tensor, apart: Tensor | None
    ) -> list[_Output]:
        """Run the decoder and return the predictions of every layer; each starts at the boxes of the one before."""
        outputs = []
        for layer, classifier, refine in zip(self.decoder, self.classifiers, self.refine, strict=True):
            content = layer(content, position, references, memory.tokens, memory.shapes, apart)
            boxes = (torch.logit(references, eps=1e-5) + refine(content).float()).sigmoid()
            outputs.append(_Output(classifier(content).float(), boxes))
            references = boxes.detach()
        return outputs

    def _losses_of_layers(self, asked: dict[str, LayerPredictions]) -> dict[str, dict[str, Tensor]]:
        """Match all predictions of a step and compute their losses; each is (L,).

        The costs of all layers and images are computed on the device and come to the CPU in one copy, which is the one
        time that the host waits; the assignment problems are solved there, as nothing else solves them.
        """
        finite = [one.finite() for one in asked.values()]
        costs = [
            self.criterion.costs(one.logits.detach(), one.boxes.detach(), padded(one.targets, one.logits.device))
            for one in asked.values()
            if one.given is None
        ]
        on_host = to_host([*finite, *costs])
        costs = on_host[len(finite) :]
        losses = {}
        for (name, one), on_device, is_finite in zip(asked.items(), finite, on_host, strict=False):
            self.count_predictions(is_finite.numel(), is_finite.numel() - int(is_finite.sum()))
            given = one.matched(costs.pop(0)) if one.given is None else one.given
            of_layers = self.criterion.of_layers(one.logits, one.boxes, one.assignment(given, is_finite))
            if is_finite.numel():  # no denoising query where no image holds an object
                of_layers["classification"] = self.where_any_is_finite(of_layers["classification"], on_device)
            losses[name] = of_layers
        return losses


def _classifier(channels: int, num_classes: int) -> nn.Linear:
    layer = nn.Linear(channels, num_classes)
    nn.init.constant_(layer.bias, -math.log((1 - PRIOR) / PRIOR))
    return layer


def _total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()
