"""A detector without weights: every connected bright blob is a box, exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from medpretrain3d.backbones import ResEnc
from medpretrain3d.boxes import Detections
from medpretrain3d.detection import AnchorGrid, RetinaNet
from medpretrain3d.detection.base import Detector


class BlobFinder(Detector):
    """Boxes around connected voxels above 0 in channel 0; label 1 where they exceed 0.75, else 0.

    The score of a box is the mean brightness of its blob, so a blob of one brightness scores the same cut or whole.
    """

    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.num_images = 0

    def losses(self, image: Tensor, targets: list) -> dict[str, Tensor]:
        return {}

    def detect(self, image: Tensor) -> list[Detections]:
        self.num_images += len(image)
        return [self._of_image(channels[0].numpy()) for channels in image]

    def _of_image(self, image: np.ndarray) -> Detections:
        labeled, count = ndimage.label(image > 0)
        if not count:
            return Detections.cat([])
        slices = ndimage.find_objects(labeled)
        boxes = [[axis.start for axis in blob] + [axis.stop for axis in blob] for blob in slices]
        scores = torch.tensor(ndimage.mean(image, labeled, range(1, count + 1)), dtype=torch.float32)
        return Detections.cat([Detections(torch.tensor(boxes).float(), scores, (scores > 0.75).long())])


class BlobSegmenter(BlobFinder):
    """Also says which voxels are dim (1) or bright (2)."""

    def segment(self, image: Tensor) -> Tensor:
        classes = (image[:, 0] > 0).long() + (image[:, 0] > 0.75)
        return torch.nn.functional.one_hot(classes, 3).movedim(-1, 1).float()


@pytest.fixture
def blob_segmenter():
    """A fresh `BlobSegmenter`."""
    return BlobSegmenter()


@pytest.fixture
def blob_finder():
    """A fresh `BlobFinder`, which counts the images it has seen."""
    return BlobFinder()


@pytest.fixture(scope="session")
def tiny_detector():
    """A network of one class, for patches of 16, with the weights it starts with."""
    torch.manual_seed(0)
    return RetinaNet(ResEnc("XXS"), 1, AnchorGrid([[(4, 4, 4)]]), first_level=3, fpn_channels=16).eval()
