"""Deformable DETR in 3D: queries look where the encoder points; one prediction per object, nothing to suppress."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from medpretrain3d.backbones.base import Backbone
from medpretrain3d.boxes import Detections, Targets, clip_boxes, has_extent
from medpretrain3d.detection.auxiliary_queries import Denoising, OneToMany, groups_apart
from medpretrain3d.detection.base import Detector
from medpretrain3d.detection.box_grid import Shape
from medpretrain3d.detection.deformable_layers import (
    DecoderLayer,
    EncoderLayer,
    cell_centers,
    mlp,
    sine_encoding,
)
from medpretrain3d.detection.labels import BACKGROUND, IGNORED
from medpretrain3d.detection.set_loss import SetLoss, UnitTargets, from_unit, to_unit
from medpretrain3d.errors import UserError
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

    def of(self, queries: slice) -> _Output:
        return _Output(self.logits[:, queries], self.boxes[:, queries])


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
        criterion: matching costs and loss weights; `None` is `SetLoss()`.
        auxiliary: queries added in training, `Denoising()` or `OneToMany()`; `None` for none, as published.
        score_threshold: detections below it are not returned.
        detections_per_image: detections returned at most.

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
        auxiliary: Denoising | OneToMany | None = None,
        score_threshold: Share = 0.0,
        detections_per_image: Rows = 100,
    ) -> None:
        super().__init__()
        if not 1 <= num_levels <= len(backbone.levels):
            most = len(backbone.levels)
            raise UserError(f"num_levels {num_levels}: the backbone has {most} levels; give 1 to {most}")
        if channels % (2 * num_heads):
            raise UserError(f"channels {channels}: must be a multiple of twice num_heads, {2 * num_heads}")
        self.backbone = backbone
        self.num_classes = num_classes
        self.num_levels = num_levels
        self.channels = channels
        self.num_queries = num_queries
        self.criterion = criterion or SetLoss()
        self.auxiliary = auxiliary
        self.score_threshold = score_threshold
        self.detections_per_image = detections_per_image

        self.project = nn.ModuleList(
            nn.Sequential(nn.Conv3d(level.channels, channels, 1), nn.GroupNorm(math.gcd(32, channels), channels))
            for level in backbone.levels[-num_levels:]
        )
        self.level_position = nn.Parameter(torch.randn(num_levels, channels) * 0.02)
        size = (channels, hidden, num_levels, num_heads, num_points, dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*size) for _ in range(encoder_layers))
        self.encoder_norm = nn.LayerNorm(channels)
        self.propose = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.objectness = _classifier(channels, 1)
        self.proposal_box = mlp(channels, 6)
        self.query = nn.Sequential(nn.Linear(6 * (channels // 2), 2 * channels), nn.LayerNorm(2 * channels))
        self.decoder = nn.ModuleList(DecoderLayer(*size) for _ in range(decoder_layers))
        self.classifiers = nn.ModuleList(_classifier(channels, num_classes) for _ in range(decoder_layers))
        self.refine = nn.ModuleList(mlp(channels, 6) for _ in range(decoder_layers))
        self.label_content = nn.Embedding(num_classes, channels) if isinstance(auxiliary, Denoising) else None

    def losses(self, image: Tensor, targets: list[Targets]) -> dict[str, Tensor]:
        """Return weighted scalars for images (B, C, D, H, W).

        `classification`, `l1` and `giou` of the last decoder layer, their sum over the layers before it
        (`earlier_layers`) and for the encoder's `proposals`; `denoising` or `one_to_many` where such queries are asked.
        Queries that find something in an ignore region are left out of the classification.
        """
        d, h, w = image.shape[2:]
        valid = self.valid_targets(targets)
        unit = [
            UnitTargets(to_unit(target.boxes.to(image.device), (d, h, w)), target.labels.to(image.device))
            for target in valid
        ]
        ignore = [
            to_unit(target.ignore.to(image.device), (d, h, w)) if target.ignore is not None else None
            for target in valid
        ]
        memory = self._encode(image)
        anything = [UnitTargets(target.boxes, torch.zeros_like(target.labels)) for target in unit]
        proposals = self._loss(_Output(memory.objectness, memory.boxes), anything, ignore)

        wanted = self.num_queries + (self.auxiliary.num_queries if isinstance(self.auxiliary, OneToMany) else 0)
        references, content, position = self._proposed(memory, wanted)
        num_found = min(self.num_queries, references.shape[1])
        sizes = [num_found, references.shape[1] - num_found]
        if isinstance(self.auxiliary, Denoising):
            assert self.label_content is not None
            spoilt, labels, answers = self.auxiliary.add_noise(unit, self.num_classes)
            references = torch.cat([references, spoilt], dim=1)
            content = torch.cat([content, self.label_content(labels).to(content.dtype)], dim=1)
            position = torch.cat([position, self._query_of(spoilt)[1].to(position.dtype)], dim=1)
            sizes += [spoilt.shape[1] // self.auxiliary.groups] * self.auxiliary.groups
        outputs = self._decode(memory, references, content, position, groups_apart(sizes, image.device))

        *earlier, last = [self._loss(output.of(slice(0, num_found)), unit, ignore) for output in outputs]
        losses = last | {"proposals": _total(proposals)}
        if earlier:
            losses["earlier_layers"] = torch.stack([_total(layer) for layer in earlier]).sum()
        further = [output.of(slice(num_found, None)) for output in outputs]
        if isinstance(self.auxiliary, OneToMany):
            repeated = [self.auxiliary.repeat(target) for target in unit]
            of_layers = [_total(self._loss(output, repeated, ignore)) for output in further]
            losses["one_to_many"] = self.auxiliary.weight * torch.stack(of_layers).sum()
        elif isinstance(self.auxiliary, Denoising):
            assert self.label_content is not None
            of_layers = [0 * self.label_content.weight.sum()]  # takes part in every step, also without objects
            of_layers += [_total(self._loss(output, unit, ignore, answers)) for output in further]
            losses["denoising"] = self.auxiliary.weight * torch.stack(of_layers).sum()
        return losses

    @torch.no_grad()
    def detect(self, image: Tensor) -> list[Detections]:
        """Detections of each image (B, C, D, H, W), clipped to it, best score first; there is nothing to suppress."""
        return DeformableDETR.launch(self, image)()  # of a subclass it may be made of `detect`

    @torch.no_grad()
    def launch(self, image: Tensor) -> Callable[[], list[Detections]]:
        """See `Detector`: the network runs, choosing the best queries is put off."""
        d, h, w = image.shape[2:]
        return partial(self._detections, *self.outputs(image), (d, h, w))

    @torch.no_grad()
    def _detections(self, logits_of_images: Tensor, boxes_of_images: Tensor, image_shape: Shape) -> list[Detections]:
        d, h, w = image_shape
        found = []
        for logits, unit in zip(logits_of_images, boxes_of_images, strict=True):
            finite = self.finite_predictions(logits, unit)
            scores = logits.sigmoid().masked_fill(~finite[:, None], -1.0).flatten()
            best = scores.topk(min(self.detections_per_image, len(scores)))
            query, label = best.indices // self.num_classes, best.indices % self.num_classes
            boxes = clip_boxes(from_unit(unit[query], (d, h, w)), (d, h, w))
            keep = (best.values >= max(0.0, self.score_threshold)) & has_extent(boxes)
            found.append(Detections(boxes, best.values, label)[torch.nonzero(keep)[:, 0]])
        return found

    def outputs(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last decoder layer's logits (B, Q, K) and unit boxes (B, Q, 6), float32, of (B, C, D, H, W)."""
        memory = self._encode(image)
        last = self._decode(memory, *self._proposed(memory, self.num_queries), None)[-1]
        return last.logits, last.boxes

    def _encode(self, image: Tensor) -> _Memory:
        maps = self.backbone(image)[-self.num_levels :]
        maps = [project(features) for project, features in zip(self.project, maps, strict=True)]
        shapes: list[Shape] = [(m.shape[2], m.shape[3], m.shape[4]) for m in maps]
        tokens = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)  # (B, S, C)
        level = torch.cat([torch.full((math.prod(s),), i, device=image.device) for i, s in enumerate(shapes)])  # (S,)

        centers, channels = cell_centers(shapes, image.device), tokens.shape[2]
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
        content, position = self.query(sine_encoding(boxes, self.channels // 2)).chunk(2, dim=2)
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

    def _loss(
        self,
        output: _Output,
        targets: Sequence[UnitTargets],
        ignore: Sequence[Tensor | None],
        given: Sequence[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        finite = self.finite_predictions(output.logits.flatten(0, 1), output.boxes.flatten(0, 1))
        finite = finite.unflatten(0, output.logits.shape[:2])
        if given is None:
            given = [
                _ignored(self.criterion.match(logits, boxes, target), boxes, regions)
                for logits, boxes, target, regions in zip(output.logits, output.boxes, targets, ignore, strict=True)
            ]
        losses = self.criterion(output.logits, output.boxes, finite, targets, given)
        if finite.numel():  # no denoising query where no image holds an object
            losses["classification"] = self.where_any_is_finite(losses["classification"], finite)
        return losses


def _ignored(given: Tensor, boxes: Tensor, regions: Tensor | None) -> Tensor:
    """Return `given` (Q,) with `IGNORED` for predictions without an object whose centre lies in a region."""
    if regions is None or not len(regions):
        return given
    low, high = from_unit(regions, (1, 1, 1)).split(3, dim=1)
    center = boxes[:, None, :3]
    inside = ((center >= low) & (center < high)).all(dim=2).any(dim=1)
    return given.masked_fill(inside & (given == BACKGROUND), IGNORED)


def _classifier(channels: int, num_classes: int) -> nn.Linear:
    layer = nn.Linear(channels, num_classes)
    nn.init.constant_(layer.bias, -math.log((1 - PRIOR) / PRIOR))
    return layer


def _total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()
