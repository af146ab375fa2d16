"""Heat maps: a detector for objects without a size, whose centers are the peaks of one map a class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from medpretrain3d.backbones.base import Backbone
from medpretrain3d.boxes import Detections, Targets, box_center
from medpretrain3d.detection.base import Detector, Part, finite_rows
from medpretrain3d.detection.box_grid import Shape
from medpretrain3d.detection.fpn import FPN
from medpretrain3d.detection.heads import CellHead, ClassificationHead
from medpretrain3d.detection.heat_decoding import HeatDecoder
from medpretrain3d.detection.heat_targets import BallTarget, HeatMaps, HeatTarget, heat_maps
from medpretrain3d.detection.losses import hardest_bce
from medpretrain3d.detection.points import PointGrid
from medpretrain3d.errors import UserError
from medpretrain3d.processes import mean_over_samples
from medpretrain3d.transfer import to_host
from medpretrain3d.values import Channels, LayersOrNone, NonNegative, Positive, PositiveShare, Rows, Share

Regression = Literal["none", "offset", "box"]


class HeatMap(Detector):
    """One map a class at one level, 1 at the centers of its objects; what is found are the peaks (Zhou et al., 2019).

    For points and tiny lesions: it learns objects that have no size (points), and of others their centers. Recipe of
    the BYU challenge for motors (2025): a sigmoid a class, plain cross-entropy over the hardest fifth of the cells.

    Args:
        backbone: any backbone.
        num_classes: foreground classes; background is not one of them.
        spacing_mm: of the voxels (D, H, W) of the data, which lengths in mm are measured by; a run refuses data of
            another spacing.
        first_level: index into `backbone.levels` of the level of the maps; strides of 2 to 16 are usual.
        fpn_channels: width of the pyramid and the heads.
        head_convs: convolutions in each head before its output convolution.
        target: value of the map around an object; `None` is `BallTarget()`.
        hardest_share: of the cells of a sample, those with the largest loss count; 1 is plain cross-entropy.
        regression: what is learned beside the maps: `none`, then a center is that of a cell; its `offset` to the
            object's center; or `box`, offset and extents, so that boxes come out.
        box_weight: factor of the losses of offset and extents.
        diameter_mm: edge of the cube that stands for an object whose extents are not learned; `None` is the diameter
            of the target. Learned extents are relative to it.
        min_distance_mm: of two peaks of a class; `None` is the radius of the target. Objects that are nearer to each
            other, or on touching cells, are found as one.
        score_threshold: detections below it are not returned.
        candidates_per_image: best peaks that are decoded and compared.
        detections_per_image: detections returned at most.

    Raises:
        UserError: the backbone does not have the level asked for.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.boxes import Targets
        >>> from medpretrain3d.detection import BallTarget, HeatMap
        >>> detector = HeatMap(ResEnc("XXS"), num_classes=1, fpn_channels=16, target=BallTarget(radius_mm=4.0))
        >>> image = torch.rand(1, 1, 16, 16, 16)
        >>> point = Targets(boxes=torch.tensor([[5.0, 5, 5, 5, 5, 5]]), labels=torch.tensor([0]))
        >>> sorted(detector.losses(image, [point]))
        ['boxes', 'classification']
        >>> with torch.no_grad():
        ...     detections = detector.eval().detect(image)
        >>> len(detections), detections[0].boxes.shape[1]
        (1, 6)
    """

    learns_points = True
    parts: ClassVar[Mapping[str, Part]] = {
        "fpn.": "neck",
        "box_head.": "box",
        "classification_head.": "class",
        "classification_head.output.": "labels",
    }
    shaped_by_anchors: ClassVar[tuple[str, ...]] = ("box_head.output.", "classification_head.output.")
    behind_layers: ClassVar[Mapping[str, str]] = {
        "box_head.output.": "box_head.tower.",
        "classification_head.output.": "classification_head.tower.",
    }
    tiny: ClassVar[Mapping[str, Any]] = {"fpn_channels": 16}

    def __init__(
        self,
        backbone: Backbone,
        num_classes: Channels,
        spacing_mm: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0),
        first_level: LayersOrNone = 1,
        fpn_channels: Channels = 128,
        head_convs: LayersOrNone = 2,
        target: HeatTarget | None = None,
        hardest_share: PositiveShare = 0.2,
        regression: Regression = "offset",
        box_weight: NonNegative = 0.1,
        diameter_mm: Positive | None = None,
        min_distance_mm: Positive | None = None,
        score_threshold: Share = 0.0,
        candidates_per_image: Rows = 1000,
        detections_per_image: Rows = 100,
    ) -> None:
        super().__init__()
        if first_level >= len(backbone.levels):
            raise UserError(
                f"a heat map on level {first_level}, but the backbone has {len(backbone.levels)} levels; give a "
                "smaller first_level"
            )
        if regression not in get_args(Regression):
            raise UserError(f"regression '{regression}': must be one of {', '.join(get_args(Regression))}")
        self.num_classes = num_classes
        d, h, w = spacing_mm
        self.spacing_mm = (d, h, w)
        self.first_level = first_level
        self.stride = backbone.levels[first_level].stride
        self.cells = PointGrid(1)
        self.target = target or BallTarget()
        self.hardest_share = hardest_share
        self.box_weight = box_weight
        self.decoder = HeatDecoder(
            self.stride,
            self.spacing_mm,
            diameter_mm or 2 * self.target.radius_mm,
            min_distance_mm or self.target.radius_mm,
            score_threshold,
            candidates_per_image,
            detections_per_image,
        )
        self.backbone = backbone
        self.fpn = FPN.down_to(backbone.levels, first_level, 1, fpn_channels)
        self.classification_head = ClassificationHead(fpn_channels, 1, num_classes, head_convs)
        num_values = {"none": 0, "offset": 3, "box": 6}[regression]
        self.box_head = CellHead(fpn_channels, num_values, head_convs) if num_values else None

    def geometry(self) -> dict[str, Any]:
        """See `Detector`."""
        return {**super().geometry(), "finest_level": self.first_level}

    def anchoring(self) -> list[object]:
        """See `Detector`; in voxels, since the network knows nothing else."""
        edges_vox = [round(self.decoder.diameter_mm / edge, 2) for edge in self.spacing_mm]
        return [{"diameter_vox": edges_vox}] if self.box_head is not None and self.box_head.num_values > 3 else []

    def check_spacing(self, spacing_mm: Sequence[float] | None) -> None:
        """See `Detector`."""
        if spacing_mm is None:
            raise UserError(
                f"{type(self).__name__} measures mm by voxels of {list(self.spacing_mm)} mm, but every scan of the "
                "data keeps its own spacing; prepare them with one --spacing-mm"
            )
        if any(abs(ours / theirs - 1) > 0.01 for ours, theirs in zip(self.spacing_mm, spacing_mm, strict=True)):
            theirs = [round(edge, 4) for edge in spacing_mm]
            raise UserError(
                f"{type(self).__name__} measures mm by voxels of {list(self.spacing_mm)} mm, the data have {theirs}; "
                f"set detector.spacing_mm to {theirs}, or prepare all scans with one --spacing-mm"
            )

    def losses(self, image: Tensor, targets: list[Targets]) -> dict[str, Tensor]:
        """Return `classification` and, where anything is regressed, `boxes`, for images (B, C, D, H, W)."""
        valid = self.valid_targets_on_host(targets)
        logits, values, shape = self._predicted(image)  # (B, A, K), (B, A, V)
        maps = heat_maps(valid, shape, self.stride, self.spacing_mm, self.num_classes, self.target)
        finite = self.finite_predictions(logits.flatten(0, 1), values.flatten(0, 1))  # (B * A,)
        heat = maps.heat.to(logits.device, non_blocking=True)
        counts = maps.counts.to(logits.device, non_blocking=True)
        counts = counts & finite.view(len(targets), 1, -1)
        of_heat = hardest_bce(logits.mT.flatten(1), heat.flatten(1), counts.flatten(1), self.hardest_share)
        classification = self.where_any_is_finite(of_heat, finite)
        if self.box_head is None:
            return {"classification": classification}
        of_boxes = self._box_loss(values.flatten(0, 1), finite, maps, shape)
        return {"classification": classification, "boxes": self.box_weight * of_boxes}

    @torch.no_grad()
    def detect(self, image: Tensor) -> list[Detections]:
        """Return the peaks in each image (B, C, D, H, W) as boxes about them, best score first."""
        return self.launch(image)()

    @torch.no_grad()
    def launch(self, image: Tensor) -> Callable[[], list[Detections]]:
        """See `Detector`: the network runs, comparing peaks is put off."""
        d, h, w = image.shape[2:]
        return partial(self._decoded, *self._predicted(image), (d, h, w))

    def outputs(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return logits (B, A, K) and, where anything is regressed, values (B, A, 3 or 6), not decoded."""
        pyramid = self.fpn(self.backbone(image))
        heads = [self.classification_head, *([] if self.box_head is None else [self.box_head])]
        return tuple(head(pyramid) for head in heads)

    def anchors_of(self, image: Tensor) -> Tensor:
        """Return the cells (A, 6) that the outputs of an image of this size belong to."""
        return self.cells([self._shape(self.fpn(self.backbone(image))[0])], [self.stride], image.device)

    def _predicted(self, image: Tensor) -> tuple[Tensor, Tensor, Shape]:
        """Return logits (B, A, K) and values (B, A, V) in float32, V may be 0, and the cells of the map (d, h, w)."""
        (level,) = pyramid = self.fpn(self.backbone(image))
        logits = self.classification_head(pyramid).float()
        values = logits[..., :0] if self.box_head is None else self.box_head(pyramid).float()
        return logits, values, self._shape(level)

    @staticmethod
    def _shape(level: Tensor) -> Shape:
        return level.shape[2], level.shape[3], level.shape[4]

    def _box_loss(self, values: Tensor, finite: Tensor, maps: HeatMaps, shape: Shape) -> Tensor:
        """L1 of offsets in cells, and of the logarithm of extents where an object has any; each a mean over cells."""
        device = values.device
        near = maps.near.to(device, non_blocking=True)
        cells = box_center(self.cells([shape], [self.stride], "cpu"))
        offsets_vox = maps.centers_vox - cells[maps.near % len(cells)]
        offsets = (offsets_vox / torch.tensor(self.stride)).to(device, non_blocking=True)
        sizes_mm = (maps.sizes_vox * torch.tensor(self.spacing_mm)).to(device, non_blocking=True)
        counts = finite.index_select(0, near)[:, None]
        found = torch.where(counts, values.index_select(0, near), 0)
        of_offset = (found[:, :3] - offsets).abs()
        loss = mean_over_samples(torch.where(counts, of_offset, 0).sum(), 3 * counts.sum())
        if values.shape[1] == 6:
            has_size = counts & (sizes_mm > 0)
            of_size = (found[:, 3:] - (sizes_mm.clamp(min=1e-3) / self.decoder.diameter_mm).log()).abs()
            of_size = torch.where(has_size, of_size, 0)
            loss = loss + mean_over_samples(of_size.sum(), has_size.sum())
        return loss

    @torch.no_grad()
    def _decoded(self, logits: Tensor, values: Tensor, shape: Shape, image_shape: Shape) -> list[Detections]:
        """Wait once for the device: for the candidates of all images, and for how many predictions are finite."""
        finite = finite_rows(logits.flatten(0, 1), values.flatten(0, 1)).view(logits.shape[:2])
        cells = self.cells([shape], [self.stride], logits.device)
        candidates = self.decoder.candidates(logits, values, finite, cells, shape, image_shape)
        *compared, num_finite = to_host([*candidates, finite.sum()])
        self.count_predictions(finite.numel(), finite.numel() - int(num_finite))
        return [self.decoder.compare(*image) for image in zip(*compared, strict=True)]
