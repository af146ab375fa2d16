"""Detection in a volume of any size: tiles and mirrored views through the network, boxes back into the volume."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medpretrain3d.boxes import Detections
from medpretrain3d.detection.base import Detector
from medpretrain3d.inference.config import InferenceConfig
from medpretrain3d.inference.merging import Sightings, merge_sightings
from medpretrain3d.inference.tiles import Triple, tile_starts

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class View:
    """One tile as the network sees it."""

    tile: int
    """Index into the list of tiles."""
    mirrored: tuple[int, ...]
    """Axes (0 = D, 1 = H, 2 = W) along which it is flipped."""
    image: Tensor
    """(C, D, H, W), of the size of the patch."""


def detect_volume(
    detector: Detector,
    image: Tensor,
    patch: Triple,
    config: InferenceConfig | None = None,
    batch_size: int = 1,
    pad_value: float = -1.0,
    progress: Progress | None = None,
) -> Detections:
    """What a detector finds in a whole volume: boxes in its voxels, clipped to it, best score first, on the CPU.

    Boxes are merged, not logits, so beside the volume only one batch of tiles is in memory. Tiles in which every
    channel is constant hold nothing to find and are not run.

    Args:
        detector: in evaluation mode; tiles are moved to its device, the volume stays where it is.
        image: (C, D, H, W), normalised as in training.
        patch: (D, H, W) of a tile, as in training.
        config: `None` is `InferenceConfig()`.
        batch_size: tiles and mirrored views per forward pass.
        pad_value: fills a tile behind the end of a volume that is smaller than the patch; -1 is air after `Window`.
        progress: called with (tiles done, tiles in all) after every batch.

    Raises:
        UserError: a patch with an axis below 1 voxel.
    """
    config = config or InferenceConfig()
    shape: Triple = (image.shape[1], image.shape[2], image.shape[3])
    starts = tile_starts(shape, patch, config.overlap)
    device = next((parameter.device for parameter in detector.parameters()), image.device)
    seen: list[Sightings] = []
    with torch.inference_mode(), _autocast(device):
        for batch in _batches(_views(image, starts, patch, config.views, pad_value), batch_size):
            found = detector.detect(torch.stack([view.image for view in batch]).to(device))
            for view, of_view in zip(batch, found, strict=True):
                detections = of_view[of_view.scores >= config.score_threshold].to("cpu")
                detections.boxes = mirror_boxes(detections.boxes, patch, view.mirrored)
                seen.append(Sightings.in_tile(detections, starts[view.tile], patch, shape))
            if progress is not None:
                progress(batch[-1].tile, len(starts))
    if progress is not None:
        progress(len(starts), len(starts))
    sightings = Sightings.cat(seen)
    num_expected = tiles_covering(sightings.detections.boxes, starts, patch) * len(config.views)
    return merge_sightings(sightings, num_expected, config)


def mirror_boxes(boxes: Tensor, shape: Triple, axes: Sequence[int]) -> Tensor:
    """Boxes (N, 6) as they lie in the image mirrored along `axes`; mirroring twice gives them back.

    Half-open edges swap without any "1": an edge at `e` of an axis of `size` voxels goes to `size - e`.
    """
    mirrored = boxes.clone()
    for axis in axes:
        mirrored[:, axis] = shape[axis] - boxes[:, axis + 3]
        mirrored[:, axis + 3] = shape[axis] - boxes[:, axis]
    return mirrored


def tiles_covering(boxes: Tensor, starts: Sequence[Triple], patch: Triple) -> Tensor:
    """How many tiles hold each box's centre: (N,). The tiles form a grid, so the counts along the axes multiply."""
    center = (boxes[:, :3] + boxes[:, 3:]) / 2
    count = torch.ones(len(boxes))
    for axis in range(3):
        first = torch.tensor(sorted({start[axis] for start in starts}))
        inside = (center[:, axis, None] >= first) & (center[:, axis, None] < first + patch[axis])
        count *= inside.sum(dim=1)
    return count


def _views(
    image: Tensor, starts: Sequence[Triple], patch: Triple, views: Sequence[tuple[int, ...]], pad_value: float
) -> Iterator[View]:
    """Every tile that is not constant, in every view."""
    for index, (d, h, w) in enumerate(starts):
        tile = image[:, d : d + patch[0], h : h + patch[1], w : w + patch[2]]
        if bool((tile.amin(dim=(1, 2, 3)) == tile.amax(dim=(1, 2, 3))).all()):
            continue
        missing = [size - have for size, have in zip(patch, tile.shape[1:], strict=True)]
        tile = F.pad(tile, [0, missing[2], 0, missing[1], 0, missing[0]], value=pad_value)  # F.pad: last axis first
        for mirrored in views:
            yield View(index, mirrored, tile.flip([axis + 1 for axis in mirrored]))


def _batches(views: Iterator[View], size: int) -> Iterator[list[View]]:
    while batch := list(itertools.islice(views, size)):
        yield batch


def _autocast(device: torch.device) -> AbstractContextManager[object]:
    if device.type != "cuda":
        return nullcontext()  # bf16 convolutions on a CPU are slower and less exact than fp32
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.autocast("cuda", dtype=dtype)
