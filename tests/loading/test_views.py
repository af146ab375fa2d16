from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medpretrain3d.errors import UserError
from medpretrain3d.loading.augment import SpatialAugment
from medpretrain3d.loading.crops import CropReader
from medpretrain3d.loading.image_crops import ImageCrops, apply_deferred
from medpretrain3d.loading.sampling import CaseOrder, CropSampler
from medpretrain3d.loading.views import (
    GridAndTargets,
    LabeledView,
    OneView,
    TwoViews,
    VolumePairs,
    shared_hull,
    shared_volume,
)
from medpretrain3d.store.case import CaseData, Instance, write_case
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.intensity import Window
from medpretrain3d.store.store import write_index

SHAPE = (40, 44, 48)
PATCH = (12, 16, 20)
EVERY_VIEWS = [OneView(), TwoViews(), GridAndTargets(), VolumePairs(), LabeledView()]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two stores of two cases; every voxel knows its place: channels are 100 times its centre along D, H, W."""
    folder = tmp_path_factory.mktemp("views")
    affine = np.eye(4)[[2, 1, 0, 3]]
    for number in range(2):
        rows = []
        for letter in "ab":
            image = (100 * np.indices(SHAPE) + 50).astype(np.int16)
            mask = np.zeros(SHAPE, np.uint16)
            mask[10:30, 12:30, 14:30] = 3
            objects = [Instance(3, number, (10.0, 12, 14, 30, 30, 30))]
            grid = Grid(SHAPE, affine)
            rows.append(
                write_case(folder / str(number), CaseData(f"{letter}{number}", image, grid, grid, "x", objects, mask))
            )
        write_index(folder / str(number), ["organ", "lesion"][: number + 1], (1.0, 1.0, 1.0), rows, {}, ["d", "h", "w"])
    return Corpus([folder / "0", folder / "1"])


def sample(corpus, views, position=0, spatial=None, patch=PATCH, **options):
    reader = CropReader(patch, Window(-32000, 32000), spatial, **options)
    return ImageCrops(CaseOrder(corpus.cases("all"), 0), reader, views)[position]


def places(image: torch.Tensor) -> np.ndarray:
    """(3, ...) where in the volume each voxel was read, from the lowest corner."""
    return image.double().numpy() * 320


def centers(size) -> np.ndarray:
    return np.stack(np.meshgrid(*[np.arange(n) + 0.5 for n in size], indexing="ij"))


def moved(affine: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.tensordot(affine[:, :3], where, axes=1) + affine[:, 3].reshape(3, 1, 1, 1)


@pytest.mark.parametrize("views", EVERY_VIEWS, ids=lambda views: type(views).__name__)
def test_samples_are_a_function_of_seed_and_position_and_the_same_on_the_device(corpus, views):
    order, reader = CaseOrder(corpus.cases("all"), 0), CropReader((8, 8, 8), Window(), SpatialAugment(0, 0, zoom_p=0))
    workers, device = (ImageCrops(order, reader, views, place) for place in ("workers", "device"))
    batch = workers.collate([workers[position] for position in (3, 4, 5)])
    later = apply_deferred(device.collate([device[position] for position in (3, 4, 5)]), views)
    assert set(batch) == set(later)
    assert batch["seed"].shape == (3,)
    for name in batch:
        assert torch.equal(batch[name], later[name]), name


def test_two_views_say_where_each_voxel_was_read(corpus):
    spatial = SpatialAugment(rotation_p=1, zoom_p=1)
    for position in range(8):
        both = sample(corpus, TwoViews(), position, spatial)
        assert both["image"].shape == (2, 3, *PATCH)
        inner = [places(image) for image in both["image"]]
        told = [moved(affine.double().numpy(), centers(PATCH)) for affine in both["affine"]]
        # The first view stands at whole voxels, and both tell places from its lowest corner.
        start = np.round(np.median((inner[0] - told[0]).reshape(3, -1), axis=1)).reshape(3, 1, 1, 1)
        for read, expected in zip(inner, told, strict=True):
            place = expected + start
            inside = ((place >= 0.5) & (place <= np.array(SHAPE).reshape(3, 1, 1, 1) - 0.5)).all(axis=0)
            assert inside.any()
            np.testing.assert_allclose(read[:, inside], place[:, inside], atol=1e-2)


def test_views_without_transform_overlap_by_at_least_half_along_each_axis(corpus):
    shifts = []
    for position in range(30):
        both = sample(corpus, TwoViews(0.5), position)
        first, second = both["overlap"].long()
        extent = second[3:] - second[:3]
        assert (extent >= torch.tensor(PATCH) // 2).all()
        cut = [
            image[:, box[0] : box[3], box[1] : box[4], box[2] : box[5]]
            for image, box in zip(both["image"], (first, second), strict=True)
        ]
        assert torch.equal(cut[0], cut[1])
        shifts.append((first - second)[:3].abs().amax().item())
    assert max(shifts) > 5  # and they do move


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_the_shared_hull_is_that_of_the_places_both_see(position):
    random = np.random.default_rng(position)
    augment = SpatialAugment(rotation_p=1, zoom_p=1)
    patch = (24, 28, 32)
    shift = tuple(int(step) for step in random.integers(-10, 11, 3))
    own, other = augment.draw(random).affine((0, 0, 0), patch), augment.draw(random).affine(shift, patch)
    grid = centers([48, 56, 64]) / 2  # places at a quarter and three quarters of each voxel
    there = np.tensordot(np.linalg.inv(other[:, :3]), moved(own, grid) - other[:, 3].reshape(3, 1, 1, 1), axes=1)
    seen = grid[:, ((there > 0) & (there < np.array(patch).reshape(3, 1, 1, 1))).all(axis=0)]
    box = shared_hull(own, other, patch)
    assert (box[:3] <= seen.min(axis=1)).all()
    assert (box[3:] >= seen.max(axis=1)).all()
    # A corner of what both see may be a thin tip between the places probed.
    assert np.abs(box - np.concatenate([seen.min(axis=1), seen.max(axis=1)])).max() < 4


def test_views_that_do_not_meet_share_nothing():
    identity = np.eye(3, 4)
    away = np.concatenate([np.eye(3), np.array([[9.0], [0], [0]])], axis=1)
    assert shared_hull(identity, away, (8, 8, 8)).tolist() == [0] * 6
    away[0, 3] = 6
    assert shared_hull(identity, away, (8, 8, 8)).tolist() == [6, 0, 0, 8, 8, 8]
    assert shared_hull(away, identity, (8, 8, 8)).tolist() == [0, 0, 0, 2, 8, 8]


def test_a_grid_of_base_crops_and_the_volume_that_targets_share_with_them(corpus):
    counts = set()
    for position in range(12):
        one = sample(corpus, GridAndTargets((1, 2, 2)), position, patch=(8, 10, 12))
        assert one["base"].shape == (4, 3, 8, 10, 12)
        counts.add(len(one["target"]))
        bases = [places(base) for base in one["base"]]
        for target, share in zip(one["target"], one["share"], strict=True):
            here = places(target)
            expected = [
                np.logical_and.reduce(
                    [(h > b.min() - 0.1) & (h < b.max() + 0.1) for h, b in zip(here, base, strict=True)]
                ).mean()
                for base in bases
            ]
            np.testing.assert_allclose(share, expected, atol=1e-6)
            assert float(share.sum()) == pytest.approx(1)
    assert min(counts) >= 2
    assert max(counts) <= 8
    assert len(counts) > 3


def test_a_batch_joins_the_targets_of_its_samples(corpus):
    views = GridAndTargets((1, 2, 2), (1, 3))
    samples = [sample(corpus, views, position, patch=(8, 8, 8)) for position in range(4)]
    batch = views.collate(samples)
    assert batch["base"].shape == (4, 4, 3, 8, 8, 8)
    assert batch["target_of"].tolist() == [n for n, one in enumerate(samples) for _ in one["target"]]
    assert torch.equal(batch["target"][batch["target_of"] == 2], samples[2]["target"])
    assert torch.equal(batch["share"][batch["target_of"] == 2], samples[2]["share"])


def test_shared_volume_by_hand():
    shares = shared_volume(np.array([[2, 0, 4]]), np.array([[0, 0, 0], [0, 0, 8], [8, 8, 8]]), (8, 8, 8))
    assert shares.tolist() == [[6 * 4 / 64, 6 * 4 / 64, 0]]


def test_a_pair_comes_from_two_volumes(tmp_path):
    rows = []
    for value in (100, 200, 300):
        grid = Grid((8, 8, 8), np.eye(4)[[2, 1, 0, 3]])
        rows.append(
            write_case(tmp_path, CaseData(f"v{value}", np.full((1, 8, 8, 8), value, np.int16), grid, grid, "x"))
        )
    write_index(tmp_path, [], (1.0, 1.0, 1.0), rows, {})
    corpus = Corpus([tmp_path])
    first = []
    for position in range(9):
        pair = sample(corpus, VolumePairs(), position, patch=(4, 4, 4))["image"]
        assert pair.shape == (2, 1, 4, 4, 4)
        assert len(pair[0].unique()) == len(pair[1].unique()) == 1
        assert pair[0].unique() != pair[1].unique()
        first.append(float(pair[0].unique()))
    assert len(set(first[:3])) == 3  # the first of the pair goes through all cases


def test_labels_stay_with_their_voxels_and_their_data_set(corpus):
    seen = set()
    for position in range(8):
        one = sample(
            corpus, LabeledView(), position, SpatialAugment(rotation_p=1), crop_sampler=CropSampler(object_share=1.0)
        )
        label = int(one["dataset"]) + 1  # store n holds objects of class n alone
        assert set(one["label_map"].unique().tolist()) <= {0, label}
        where = places(one["image"])
        low, high = np.array([10, 12, 14]).reshape(3, 1, 1, 1), 30
        surely = ((where > low + 1) & (where < high - 1)).all(axis=0)
        surely_not = ((where < low - 1) | (where > high + 1)).any(axis=0)
        assert (one["label_map"].numpy()[surely] == label).all()
        assert (one["label_map"].numpy()[surely_not] == 0).all()
        seen.add(label)
    assert seen == {1, 2}


def test_what_the_views_cannot_work_with_is_refused(corpus, tmp_path):
    with pytest.raises(UserError, match="set elastic_p to 0"):
        sample(corpus, TwoViews(), spatial=SpatialAugment(elastic_p=0.1))
    with pytest.raises(UserError, match="set rotation_p and zoom_p to 0"):
        sample(corpus, GridAndTargets(), spatial=SpatialAugment())
    with pytest.raises(UserError, match=r"max_shift 1\.0"):
        TwoViews(1.0)
    with pytest.raises(UserError, match="num_targets"):
        GridAndTargets(num_targets=(3, 2))
    grid = Grid((8, 8, 8), np.eye(4)[[2, 1, 0, 3]])
    rows = [write_case(tmp_path, CaseData("only", np.zeros((1, 8, 8, 8), np.int16), grid, grid, "x"))]
    write_index(tmp_path, [], (1.0, 1.0, 1.0), rows, {})
    with pytest.raises(UserError, match="one case alone makes no pair"):
        sample(Corpus([tmp_path]), VolumePairs())
    with pytest.raises(UserError, match=r"case only of .* has no mask"):
        sample(Corpus([tmp_path]), LabeledView())
