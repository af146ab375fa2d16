"""Masks of pooled boxes on their way into a volume: at their place, over tiles, and in the file's own order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medpretrain3d.backbones import ResEnc
from medpretrain3d.detection import FCOS, Detector, InstanceMasks
from medpretrain3d.detection.mask_head import MaskHead
from medpretrain3d.detection.roi_align import roi_align
from medpretrain3d.inference import Bundle, InferenceConfig, Predictor
from medpretrain3d.inference.box_masks import box_instance_map, pasted
from medpretrain3d.inference.scan import TensorTiles
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.preprocessing import Preprocessing
from medpretrain3d.store.volume import Volume

SHAPE = (20, 18, 16)


def test_a_grid_is_pasted_where_its_box_is() -> None:
    full = pasted(torch.ones(4, 4, 4), (2.4, 3, 1, 6.5, 7.6, 5.4), (0, 0, 0), (8, 9, 6))
    expected = torch.zeros(8, 9, 6)
    expected[2:6, 3:8, 1:5] = 1  # the voxels whose middle is in it
    torch.testing.assert_close(full, expected)
    ramp = torch.arange(4.0).expand(4, 4, 4)
    along = pasted(ramp, (0, 0, 2, 2, 2, 10), (0, 0, 0), (2, 2, 12))[0, 0]
    # Middles of parts are 3, 5, 7 and 9; between two it is a straight line, beyond the last one it stays.
    assert along.tolist() == [0, 0, 0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3, 0, 0]


def test_pasting_commutes_with_mirroring() -> None:
    grid = torch.rand(5, 5, 5, generator=torch.Generator().manual_seed(0))
    whole = pasted(grid, (1.3, 2.2, 3.1, 6.9, 7.7, 8.8), (0, 0, 0), (10, 10, 10))
    mirrored = pasted(grid.flip(2), (1.3, 2.2, 10 - 8.8, 6.9, 7.7, 10 - 3.1), (0, 0, 0), (10, 10, 10))
    torch.testing.assert_close(mirrored.flip(2), whole)


class Itself(nn.Module):
    """The image as the only feature map."""

    def forward(self, image: Tensor) -> list[Tensor]:
        return [image]


class ReadsBrightness(MaskHead):
    """Bright parts of a box are the object."""

    def __init__(self, size: int) -> None:
        nn.Module.__init__(self)
        self.size, self.asked = size, 0

    def probabilities(self, features: Sequence[Tensor], boxes: Tensor) -> Tensor:
        self.asked += len(boxes)
        return roi_align(features[0], [boxes], (1, 1, 1), self.size)[:, 0]


class Finder(Detector):
    """A detector that is asked for masks alone."""

    num_classes = 1

    def __init__(self, size: int) -> None:
        super().__init__()
        self.backbone = Itself()  # type: ignore[assignment]  # no levels are asked for
        self.mask_head = ReadsBrightness(size)


def scene(*blobs: tuple[int, int, int, int, int, int]) -> Tensor:
    image = torch.zeros(1, *SHAPE)
    image[0, ::2] = 0.01  # no tile is empty
    for d0, h0, w0, d1, h1, w1 in blobs:
        image[0, d0:d1, h0:h1, w0:w1] = 1
    return image


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_objects_whole_cut_and_overlapping_are_found_over_tiles(overlap: float) -> None:
    small, long = (3, 3, 3, 7, 6, 8), (2, 10, 2, 18, 14, 14)  # the second is longer than a tile
    image = scene(small, long)
    boxes = np.array([[1.0, 1, 2, 9, 9, 10], [2, 9, 0, 18, 17, 16], [3, 3, 3, 7, 6, 12]])
    detector = Finder(16)
    found = box_instance_map(detector, TensorTiles(image, 0.0), boxes, (12, 12, 12), overlap)
    expected = np.zeros(SHAPE, np.uint16)
    for number, (d0, h0, w0, d1, h1, w1) in enumerate((small, long), start=1):
        expected[d0:d1, h0:h1, w0:w1] = number
    np.testing.assert_array_equal(found, expected)  # nothing is left for the third
    assert found.dtype == np.uint16


def test_a_box_is_asked_for_where_it_is_whole() -> None:
    detector = Finder(8)
    boxes = np.array([[2.0, 2, 2, 6, 6, 6]])  # of the tiles from 0 and 8 along D, the first holds it
    box_instance_map(detector, TensorTiles(scene((2, 2, 2, 6, 6, 6)), 0.0), boxes, (12, 18, 16), 0.0)
    assert detector.mask_head.asked == 1


def test_a_scan_is_predicted_with_masks_in_its_own_order() -> None:
    torch.manual_seed(0)
    detector = FCOS(ResEnc("XXS"), 1, fpn_channels=16, head_convs=1, masks=InstanceMasks(channels=8, size=2, convs=0))
    assert detector.mask_head is not None
    assert detector.mask_head.output.bias is not None
    nn.init.zeros_(detector.mask_head.output.weight)
    nn.init.constant_(detector.mask_head.output.bias, 9.0)  # all of a box is the object
    bundle = Bundle(detector, ("a",), Preprocessing(patch=(16, 16, 16)), InferenceConfig(), {}, "")
    source = Grid(SHAPE, np.diag([-1.0, 1, 1, 1])[[1, 2, 0, 3]])
    hu = np.random.default_rng(0).integers(-100, 300, (1, *SHAPE)).astype(np.int16)
    canonical, order, mirrored = source.canonical()
    volume = Volume(np.flip(hu[0].transpose(order), mirrored)[None].copy(), canonical, source)
    result = Predictor(bundle, device="cpu").predict(volume, "a", with_masks=True)
    assert len(result) > 3
    expected = np.zeros(SHAPE, np.uint16)
    for number, box in reversed(list(enumerate(result.boxes_vox, start=1))):
        low, high = np.ceil(box[:3] - 0.5).astype(int), np.ceil(box[3:] - 0.5).astype(int)
        expected[tuple(slice(*ends) for ends in zip(low, high, strict=True))] = number
    assert result.instances is not None
    assert (result.instances == expected).mean() > 0.999  # a middle on a face may go either way
