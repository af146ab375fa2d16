"""Detection in a volume of any size: tiles and mirrored views through the network, boxes back into the volume."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import torch
from torch import Tensor

from medpretrain3d.boxes import Detections, mirror_boxes
from medpretrain3d.detection.base import Detector
from medpretrain3d.errors import UserError
from medpretrain3d.inference.config import InferenceConfig
from medpretrain3d.inference.launcher import Launched, Launcher
from medpretrain3d.inference.merging import merge_raw_detections
from medpretrain3d.inference.raw_detections import RawDetections
from medpretrain3d.inference.read_ahead import ReadAhead
from medpretrain3d.inference.scan import TensorTiles, TileReader
from medpretrain3d.inference.tile_batches import TileBatch, read_batches
from medpretrain3d.inference.tiles import Triple, starts_within
from medpretrain3d.precision.choice import precision_of
from medpretrain3d.precision.mixed import autocast
from medpretrain3d.precision.names import Precision
from medpretrain3d.values import Rows, check_value

Progress = Callable[[int, int], None]
TILES_ON_GPU = 4
"""Tiles per forward pass where none are asked for; one on a CPU, whose cores one tile keeps busy."""
BATCHES_AHEAD = 2
"""Read while the network works on another. One would do if all took alike; skipped tiles make some take longer."""


def detect_volume(
    detector: Detector,
    image: Tensor | TileReader,
    patch: Triple,
    config: InferenceConfig | None = None,
    batch_size: int | None = None,
    pad_value: float = -1.0,
    progress: Progress | None = None,
    precision: Precision | None = None,
) -> Detections:
    """Run sliding-window inference on a volume: boxes in its voxels, clipped to it, best score first, on the CPU.

    Args:
        detector: in evaluation mode; tiles are moved to its device, the volume stays where it is.
        image: (C, D, H, W), normalised as in training; or a reader of tiles, so that no volume need be in memory.
        patch: (D, H, W) of a tile, as in training.
        config: `None` is `InferenceConfig()`.
        batch_size: tiles and mirrored views per forward pass; `None` is what suits the device.
        pad_value: fills a tile of a tensor behind the end of a volume that is smaller than the patch; -1 is air after
            `Window`.
        progress: called with (tiles done, tiles in all) after every batch.
        precision: of the network; `None` is what suits its device.

    Raises:
        UserError: a patch with an axis below 1 voxel.
    """
    config = config or InferenceConfig()
    tiles = TensorTiles(image, pad_value) if isinstance(image, Tensor) else image
    return merge_raw_detections(
        detect_tiles(detector, tiles, patch, config, batch_size, progress, precision), config, tiles.spacing_mm
    )


def detect_tiles(
    detector: Detector,
    tiles: TileReader,
    patch: Triple,
    config: InferenceConfig,
    batch_size: int | None = None,
    progress: Progress | None = None,
    precision: Precision | None = None,
) -> RawDetections:
    """Run sliding-window inference without merging: detections of all tiles and views, in voxels of the volume.

    Boxes are merged later, not logits, so only a few batches of tiles are in memory: tiles are read in a thread while
    the network works (`SlidingWindows`). Empty tiles are not run.

    Args:
        detector: in evaluation mode; tiles are moved to its device.
        tiles: the volume; read in a thread.
        patch: (D, H, W) of a tile, as in training.
        config: overlap, mirrored views, and the score below which nothing is kept.
        batch_size: tiles and mirrored views per forward pass, which change results by rounding at most; `None` is
            `TILES_ON_GPU` on a GPU and 1 on a CPU. Where they do not fit a GPU's memory, half of them are tried.
        progress: called with (tiles done, tiles in all) after every batch.
        precision: of the network; `None` is what suits its device.

    Raises:
        UserError: a patch with an axis below 1 voxel, batches of no tile, or a volume in which no prediction at all is
            finite.
    """
    window = SlidingWindow(detector, tiles, patch, config, batch_size, precision)
    with closing(SlidingWindows([window])) as windows:
        return windows.detect(progress)[0]


class SlidingWindow:
    """One detector and one volume: which tiles it looks at, and what it found in those that it has seen.

    Args:
        detector: see `detect_tiles`, as the others.
        tiles: the volume.
        patch: (D, H, W) of a tile.
        config: overlap, mirrored views, score threshold.
        batch_size: views per forward pass.
        precision: of the network.
        within: the part of the volume that is looked at, see `starts_within`.

    Raises:
        UserError: a patch with an axis below 1 voxel, batches of no tile, or no name of a precision.
    """

    def __init__(
        self,
        detector: Detector,
        tiles: TileReader,
        patch: Triple,
        config: InferenceConfig,
        batch_size: int | None = None,
        precision: Precision | None = None,
        within: tuple[Triple, Triple] | None = None,
    ) -> None:
        # Of 0 tiles no batch would be made and nothing found.
        check_value("detect_tiles", "batch_size", batch_size, Rows | None)
        self.detector = detector
        self.tiles = tiles
        self.patch = patch
        self.config = config
        self.device = next((parameter.device for parameter in detector.parameters()), torch.device("cpu"))
        self.precision: Precision = precision_of(precision, self.device)
        self.batch_size = batch_size or (TILES_ON_GPU if self.device.type == "cuda" else 1)
        self.starts = starts_within(tiles.shape, patch, config.overlap, within)
        self._seen: list[RawDetections] = []
        self._num_predictions = self._num_invalid = 0

    def read(self) -> Iterator[TileBatch]:
        """Read the tiles, first slices first."""
        is_pinned = self.device.type == "cuda"
        return read_batches(self.tiles, self.starts, self.patch, self.config.views, self.batch_size, is_pinned)

    def keep(self, launched: Launched) -> None:
        """Wait for what the network says of a batch and keep it, in voxels of the volume."""
        found = launched.detections()
        self._num_predictions += launched.num_predictions
        self._num_invalid += launched.num_invalid
        for view, of_view in zip(launched.batch.views, found, strict=True):
            detections = of_view[of_view.scores >= self.config.score_threshold].to("cpu")
            detections.boxes = mirror_boxes(detections.boxes, self.patch, view.mirrored)
            place = self.starts[view.tile], self.patch, self.tiles.shape
            self._seen.append(RawDetections.in_tile(detections, *place, self.config.keeps_centers))

    def result(self) -> RawDetections:
        """Return all that was seen.

        Raises:
            UserError: no prediction at all is finite.
        """
        if self._num_predictions and self._num_predictions == self._num_invalid:
            raise UserError(
                f"none of the {self._num_predictions} predictions in a volume is finite, so nothing can be found in "
                "it; the detector's training diverged (lower its learning rate), or the volume's intensities are not "
                "finite"
            )
        return RawDetections.cat(self._seen)


class SlidingWindows:
    """One volume and all detectors that look at it, one after the other; its first tiles are read from now on.

    Three things happen at a time: a thread reads the tiles of the next batches, the device computes one, and what it
    said of the batch before is decoded on the host. In memory are `BATCHES_AHEAD` batches and the two that the device
    and the host are at.

    Close it (`contextlib.closing`): the thread ends then.

    Args:
        windows: of each detector.
    """

    def __init__(self, windows: Sequence[SlidingWindow]) -> None:
        self.windows = windows
        self._batches = ReadAhead(self._read(), BATCHES_AHEAD)

    def close(self) -> None:
        """End reading."""
        self._batches.close()

    def detect(self, progress: Progress | None = None) -> list[RawDetections]:
        """Return what each detector found, in voxels of its own tiles; once.

        Args:
            progress: called with (tiles done, tiles in all) after every batch, over all detectors.

        Raises:
            UserError: the volume cannot be read, or a detector says nothing finite.
        """
        launchers = [Launcher(window.detector, window.device) for window in self.windows]
        counts = [len(window.starts) for window in self.windows]
        told = progress or (lambda done, total: None)
        launched: deque[tuple[int, Launched]] = deque()

        def keep_first() -> None:
            index, first = launched.popleft()
            window = self.windows[index]
            with autocast(window.device, window.precision):
                window.keep(first)
            told(sum(counts[:index]) + first.batch.views[-1].tile, sum(counts))

        with torch.inference_mode():
            for index, batch in self._batches:
                window = self.windows[index]
                with autocast(window.device, window.precision):
                    launched.append((index, launchers[index].launch(batch)))
                if len(launched) > 1:  # the device has work again before the host decodes
                    keep_first()
            while launched:
                keep_first()
        told(sum(counts), sum(counts))
        return [window.result() for window in self.windows]

    def _read(self) -> Iterator[tuple[int, TileBatch]]:
        for index, window in enumerate(self.windows):
            for batch in window.read():
                yield index, batch
