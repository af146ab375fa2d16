"""Batches of tiles on a device: the next is launched before the host decodes what was said of the one before."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from medpretrain3d.boxes import Detections
from medpretrain3d.detection.base import Detector
from medpretrain3d.inference.tile_batches import TileBatch
from medpretrain3d.transfer import to_host

logger = logging.getLogger(__name__)


class Launcher:
    """A detector on its device.

    On a GPU what a network says is decoded on a stream of its own: on the network's it would wait for the next batch.
    *Not yet run* on a GPU.

    Args:
        detector: in evaluation mode.
        device: of its weights.
    """

    def __init__(self, detector: Detector, device: torch.device) -> None:
        self.detector = detector
        self.device = device
        self.most = 2**20
        """Images that fit the device together, as far as is known."""
        self.decoding = torch.cuda.Stream(device) if device.type == "cuda" else None

    def launch(self, batch: TileBatch) -> Launched:
        """Start the network on a batch; on a GPU this returns before it is done.

        Raises:
            torch.OutOfMemoryError: one image alone does not fit.
        """
        return Launched(batch, self)

    def launch_images(self, images: Tensor) -> list[Callable[[], list[Detections]]]:
        """Start the network on images (B, C, D, H, W), or on parts of them one after the other where they do not fit.

        Raises:
            torch.OutOfMemoryError: one image alone does not fit.
        """
        while True:
            try:
                parts = images.split(self.most)
                return [self.detector.launch(part.to(self.device, non_blocking=True)) for part in parts]
            except torch.OutOfMemoryError:
                most = min(self.most, len(images))
                if most == 1:
                    raise
                self.most = most // 2
            # Behind the handler, whose traceback holds what filled the memory.
            logger.warning(
                "%d tiles do not fit the memory of %s together; going on with %d", most, self.device, self.most
            )


class Launched:
    """A batch that a device is computing, from now on.

    Args:
        batch: the batch.
        launcher: of the detector.
    """

    def __init__(self, batch: TileBatch, launcher: Launcher) -> None:
        self.batch = batch
        self.num_predictions = 0
        """Made for this batch so far."""
        self.num_invalid = 0
        """Of these, not finite."""
        self._launcher = launcher
        self._is_done: torch.cuda.Event | None = None
        with self._counted():
            self._decode = launcher.launch_images(batch.images)
        if launcher.decoding is not None:
            self._is_done = torch.cuda.current_stream(launcher.device).record_event()

    def detections(self) -> list[Detections]:
        """Wait for the device and return the detections of each view, on the CPU; once."""
        stream = self._launcher.decoding
        with self._counted(), torch.cuda.stream(stream):
            if stream is not None and self._is_done is not None:
                stream.wait_event(self._is_done)
            found = on_host([one for decode in self._decode for one in decode()])
            if stream is not None:
                stream.synchronize()  # what was decoded may be freed now, on the stream that made it
        self._decode.clear()
        return found

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count predictions for this batch: another one may be launched between its launch and its decoding."""
        detector = self._launcher.detector
        before = detector.num_predictions, detector.num_invalid_predictions
        yield
        self.num_predictions += detector.num_predictions - before[0]
        self.num_invalid += detector.num_invalid_predictions - before[1]


def on_host(found: list[Detections]) -> list[Detections]:
    """Return the detections of several images on the CPU, by one copy and not three for each image."""
    parts = to_host([part for one in found for part in (one.boxes, one.scores, one.labels)])
    return [Detections(*parts[first : first + 3]) for first in range(0, len(parts), 3)]
