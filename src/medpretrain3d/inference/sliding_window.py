"""Detection in a volume of any size: tiles and mirrored views through the network, boxes back into the volume."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from medpretrain3d.boxes import Detections
from medpretrain3d.detection.base import Detector
from medpretrain3d.errors import UserError
from medpretrain3d.inference.config import InferenceConfig
from medpretrain3d.inference.merging import merge_raw_detections
from medpretrain3d.inference.raw_detections import RawDetections
from medpretrain3d.inference.scan import TensorTiles, TileReader
from medpretrain3d.inference.tiles import Triple, tile_starts
from medpretrain3d.values import Rows, check_value

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
    image: Tensor | TileReader,
    patch: Triple,
    config: InferenceConfig | None = None,
    batch_size: int = 1,
    pad_value: float = -1.0,
    progress: Progress | None = None,
) -> Detections:
    """Run sliding-window inference on a volume: boxes in its voxels, clipped to it, best score first, on the CPU.

    Args:
        detector: in evaluation mode; tiles are moved to its device, the volume stays where it is.
        image: (C, D, H, W), normalised as in training; or a reader of tiles, so that no volume need be in memory.
        patch: (D, H, W) of a tile, as in training.
        config: `None` is `InferenceConfig()`.
        batch_size: tiles and mirrored views per forward pass.
        pad_value: fills a tile of a tensor behind the end of a volume that is smaller than the patch; -1 is air after
            `Window`.
        progress: called with (tiles done, tiles in all) after every batch.

    Raises:
        UserError: a patch with an axis below 1 voxel.
    """
    config = config or InferenceConfig()
    tiles = TensorTiles(image, pad_value) if isinstance(image, Tensor) else image
    return merge_raw_detections(
        detect_tiles(detector, tiles, patch, config, batch_size, progress), config, tiles.spacing_mm
    )


def detect_tiles(
    detector: Detector,
    tiles: TileReader,
    patch: Triple,
    config: InferenceConfig,
    batch_size: int = 1,
    progress: Progress | None = None,
) -> RawDetections:
    """Run sliding-window inference without merging: detections of all tiles and views, in voxels of the volume.

    Boxes are merged later, not logits, so only one batch of tiles is in memory. Empty tiles are not run.

    Args:
        detector: in evaluation mode; tiles are moved to its device.
        tiles: the volume.
        patch: (D, H, W) of a tile, as in training.
        config: overlap, mirrored views, and the score below which nothing is kept.
        batch_size: tiles and mirrored views per forward pass.
        progress: called with (tiles done, tiles in all) after every batch.

    Raises:
        UserError: a patch with an axis below 1 voxel, batches of no tile, or a volume in which no prediction at all is
            finite.
    """
    check_value("detect_tiles", "batch_size", batch_size, Rows)  # of 0 tiles no batch would be made and nothing found
    starts = tile_starts(tiles.shape, patch, config.overlap)
    device = next((parameter.device for parameter in detector.parameters()), torch.device("cpu"))
    seen: list[RawDetections] = []
    before = detector.num_predictions, detector.num_invalid_predictions
    with torch.inference_mode(), autocast(device):
        for batch in _batches(_views(tiles, starts, patch, config.views), batch_size):
            found = detector.detect(torch.stack([view.image for view in batch]).to(device))
            for view, of_view in zip(batch, found, strict=True):
                detections = of_view[of_view.scores >= config.score_threshold].to("cpu")
                detections.boxes = mirror_boxes(detections.boxes, patch, view.mirrored)
                seen.append(RawDetections.in_tile(detections, starts[view.tile], patch, tiles.shape))
            if progress is not None:
                progress(batch[-1].tile, len(starts))
    if progress is not None:
        progress(len(starts), len(starts))
    made, invalid = detector.num_predictions - before[0], detector.num_invalid_predictions - before[1]
    if made and made == invalid:
        raise UserError(
            f"none of the {made} predictions in a volume is finite, so nothing can be found in it; the detector's "
            "training diverged (lower its learning rate), or the volume's intensities are not finite"
        )
    return RawDetections.cat(seen)


def mirror_boxes(boxes: Tensor, shape: Triple, axes: Sequence[int]) -> Tensor:
    """Return boxes (N, 6) as they lie in the image mirrored along `axes`; mirroring twice gives them back.

    Half-open edges swap without any "1": an edge at `e` of an axis of `size` voxels goes to `size - e`.
    """
    mirrored = boxes.clone()
    for axis in axes:
        mirrored[:, axis] = shape[axis] - boxes[:, axis + 3]
        mirrored[:, axis + 3] = shape[axis] - boxes[:, axis]
    return mirrored


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Half precision where it helps: on a GPU, bf16 if it has it."""
    if device.type != "cuda":
        return nullcontext()  # bf16 convolutions on a CPU are slower and less exact than fp32
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.autocast("cuda", dtype=dtype)


def _views(
    tiles: TileReader, starts: Sequence[Triple], patch: Triple, views: Sequence[tuple[int, ...]]
) -> Iterator[View]:
    """Return every tile that is not empty, in every view."""
    for index, start in enumerate(starts):
        tile = tiles.read(start, patch)
        if tile is None:
            continue
        for mirrored in views:
            yield View(index, mirrored, tile.flip([axis + 1 for axis in mirrored]))


def _batches(views: Iterator[View], size: int) -> Iterator[list[View]]:
    while batch := list(itertools.islice(views, size)):
        yield batch
