"""MultiCrop: what its crops cover, and what they say about it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medpretrain3d.errors import UserError
from medpretrain3d.loading.augment import SpatialAugment
from medpretrain3d.loading.crops import CropReader
from medpretrain3d.loading.image_crops import ImageCrops, apply_deferred
from medpretrain3d.loading.multi_crop import MultiCrop
from medpretrain3d.loading.sampling import CaseOrder
from medpretrain3d.store.case import CaseData, write_case
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.intensity import Window
from medpretrain3d.store.store import write_index

SHAPE = (40, 44, 48)
PATCH = (12, 16, 20)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A case whose voxels know their place: channels are 100 times its center along D, H, W."""
    folder = tmp_path_factory.mktemp("crops")
    grid = Grid(SHAPE, np.eye(4)[[2, 1, 0, 3]])
    image = (100 * np.indices(SHAPE) + 50).astype(np.int16)
    rows = [write_case(folder, CaseData("only", image, grid, grid, "x"))]
    write_index(folder, [], (1.0, 1.0, 1.0), rows, {}, ["d", "h", "w"])
    return Corpus([folder])


def sample(corpus, views, position=0, spatial=None):
    reader = CropReader(PATCH, Window(-32000, 32000), spatial)
    return ImageCrops(CaseOrder(corpus.cases("all"), 0), reader, views)[position]


def corners(image: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Centers of the first and of the last voxel of a crop, in voxels of the volume."""
    places = image.double().numpy() * 320
    return places[:, 0, 0, 0], places[:, -1, -1, -1]


def test_crops_cover_their_share_of_a_region_that_all_are_in(corpus):
    region = np.array([24, 32, 40])
    views = MultiCrop(3, (6, 8, 10), (24, 32, 40), (0.5, 1.0), (0.1, 0.3))
    shares = {"image": [], "local": []}
    for position in range(12):
        crops = sample(corpus, views, position)
        assert crops["image"].shape == (2, 3, *PATCH)
        assert crops["local"].shape == (3, 3, 6, 8, 10)
        ends = []
        for name in shares:
            for one in crops[name]:
                first, last = corners(one)
                size = np.array(one.shape[1:])
                extent = (last - first) * size / (size - 1)  # from face to face
                assert np.ptp(extent / region) < 0.01  # in the proportions of the region
                shares[name].append((extent / region).prod())
                ends += [first - extent / size / 2, last + extent / size / 2]
        assert (np.ptp(ends, axis=0) <= region + 1.01).all()  # a crop stands at whole voxels
        assert np.min(ends) >= -0.51
    assert 0.49 < min(shares["image"]) < 0.65
    assert 0.8 < max(shares["image"]) < 1.01
    assert 0.09 < min(shares["local"]) < 0.15
    assert 0.22 < max(shares["local"]) < 0.31


def test_without_scales_crops_are_voxels_as_they_are(corpus):
    crops = sample(corpus, MultiCrop(2, (6, 8, 10), (24, 32, 40), None, None))
    for one in (*crops["image"], *crops["local"]):
        first, last = corners(one)
        np.testing.assert_allclose(last - first, np.array(one.shape[1:]) - 1, atol=1e-2)


def test_affines_say_what_both_global_crops_see(corpus):
    views = MultiCrop(1, (6, 8, 10), (24, 32, 36))
    for position in range(6):
        crops = sample(corpus, views, position, SpatialAugment(rotation_p=1, zoom_p=1))
        offsets = []
        for image, affine in zip(crops["image"], crops["affine"].double().numpy(), strict=True):
            for index in ((4, 5, 6), (7, 10, 13)):  # inside, where nothing is padded
                read = image[:, *index].double().numpy() * 320
                offsets.append(read - (affine[:, :3] @ (np.array(index) + 0.5) + affine[:, 3]))
        np.testing.assert_allclose(np.ptp(offsets, axis=0), 0, atol=2e-2)


def test_batches_are_the_same_on_the_device(corpus):
    order, reader = CaseOrder(corpus.cases("all"), 0), CropReader(PATCH, Window(), SpatialAugment())
    views = MultiCrop(2, (6, 8, 10))
    workers, device = (ImageCrops(order, reader, views, place) for place in ("workers", "device"))
    batch = workers.collate([workers[position] for position in (3, 4)])
    later = apply_deferred(device.collate([device[position] for position in (3, 4)]), views)
    assert batch["local"].shape == (2, 2, 3, 6, 8, 10)
    assert set(batch) == set(later) == {"image", "local", "affine", "seed"}
    for name in batch:
        torch.testing.assert_close(batch[name], later[name], msg=name)


def test_what_has_no_geometry_and_what_does_not_fit_is_refused(corpus):
    assert MultiCrop(local_patch=(6, 8, 10)).sizes(PATCH) == (PATCH, (6, 8, 10))
    with pytest.raises(UserError, match="set elastic_p to 0"):
        sample(corpus, MultiCrop(), spatial=SpatialAugment(elastic_p=0.1))
    with pytest.raises(UserError, match="raise region, or give them a scale"):
        sample(corpus, MultiCrop(local_patch=(16, 16, 16), local_scale=None))
    with pytest.raises(UserError, match="global_scale"):
        MultiCrop(global_scale=(0.0, 1.0))
