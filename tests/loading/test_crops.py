from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import find_objects

from medpretrain3d.errors import UserError
from medpretrain3d.loading.augment import IntensityAugment, SpatialAugment
from medpretrain3d.loading.crops import CropReader
from medpretrain3d.loading.image_crops import ImageCrops, apply_deferred
from medpretrain3d.loading.instance_hulls import instance_hulls
from medpretrain3d.loading.object_crops import ObjectCrops, apply_deferred_objects, collate_objects, read_objects
from medpretrain3d.loading.sampling import CaseOrder, CropSampler
from medpretrain3d.loading.spatial_kernels import find_hulls
from medpretrain3d.loading.spatial_transform import IDENTITY, SpatialTransform
from medpretrain3d.loading.views import OneView
from medpretrain3d.store.case import CaseData, Instance, write_case
from medpretrain3d.store.corpus import Corpus, nested_order
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.intensity import Window
from medpretrain3d.store.store import write_index
from tests.host_waits import DEVICE, CountingDevice

SHAPE = (20, 24, 28)
GRID = Grid(SHAPE, np.diag([1.0, 1, 1, 1])[[2, 1, 0, 3]])
WINDOW = Window(0, 1000)


def image_crops(cases, patch, seed=0, spatial=None) -> ImageCrops:
    return ImageCrops(CaseOrder(cases, seed), CropReader(patch, WINDOW, spatial), OneView())


def object_crops(cases, patch, seed=0, share=1.0, spatial=None, intensity=None, **options) -> ObjectCrops:
    reader = CropReader(patch, WINDOW, spatial, intensity, CropSampler(object_share=share))
    return ObjectCrops(CaseOrder(cases, seed), reader, **options)


def content(case_id: str, objects=((1, 0, (4, 5, 6, 10, 12, 16)),), with_mask: bool = True) -> CaseData:
    """The image counts along W, objects fill their boxes."""
    image = np.broadcast_to(np.arange(SHAPE[2], dtype=np.int16) * 10, (1, *SHAPE)).copy()
    mask = np.zeros(SHAPE, np.uint16)
    for number, _, (d0, h0, w0, d1, h1, w1) in objects:
        mask[d0:d1, h0:h1, w0:w1] = number
    listed = [Instance(number, label, tuple(map(float, box))) for number, label, box in objects]
    return CaseData(
        case_id, image, GRID, GRID, f"{case_id}.nii.gz", listed, mask if with_mask else None, voxels=case_id
    )


def make_store(folder, *contents: CaseData) -> Corpus:
    rows = [write_case(folder, one) for one in contents]
    write_index(folder, ["a", "b"], (1.0, 1.0, 1.0), rows, {})
    return Corpus([folder])


def test_image_crops_are_a_function_of_seed_and_position(tmp_path):
    cases = make_store(tmp_path, content("x"), content("y")).cases("all")
    crops = image_crops(cases, (8, 8, 8), seed=3, spatial=SpatialAugment(rotation_p=1))
    again = image_crops(cases, (8, 8, 8), seed=3, spatial=SpatialAugment(rotation_p=1))
    assert torch.equal(crops[7]["image"], again[7]["image"])
    assert crops[7]["seed"] == again[7]["seed"] != crops[8]["seed"]
    assert crops[7]["image"].shape == (1, 8, 8, 8)
    assert crops[7]["image"].dtype == torch.float32


def test_a_crop_shows_the_voxels_of_its_place(tmp_path):
    cases = make_store(tmp_path, content("x")).cases("all")
    image = image_crops(cases, (4, 4, 6))[0]["image"][0, 0, 0]
    # The image rises by 10 HU per voxel along W; the window maps 1000 HU to 2.
    torch.testing.assert_close(image.diff(), torch.full((5,), 0.02), atol=1e-5, rtol=0)


@pytest.mark.parametrize("with_mask", [True, False])
def test_targets_are_the_hull_of_what_is_visible(tmp_path, with_mask):
    cases = make_store(tmp_path, content("x", with_mask=with_mask)).cases("all")
    crops = object_crops(cases, (10, 10, 10), seed=1)
    for position in range(20):
        image, targets = crops[position]
        # The crop's start can be read off its first voxel along W; compare W extents with the object's 6..16.
        start_w = round(float((image[0, 0, 0, 0] + 1) * 50))
        assert len(targets.boxes) <= 1
        for box in targets.boxes:
            assert box[2] == max(0, 6 - start_w)
            assert box[5] == min(10, 16 - start_w)
        if with_mask and len(targets.boxes):
            assert targets.mask is not None
            index = torch.nonzero(targets.mask)
            assert targets.boxes[0].tolist() == [*index.amin(0).tolist(), *(index.amax(0) + 1).tolist()]
            assert set(targets.mask.unique().tolist()) <= {0, 1}


@pytest.mark.parametrize("with_mask", [True, False])
def test_objects_seen_for_less_than_the_share_are_ignored_and_no_targets(tmp_path, with_mask):
    cases = make_store(tmp_path, content("x", with_mask=with_mask)).cases("all")
    strict, loose = (object_crops(cases, (10, 10, 10), seed=1, min_visible=share) for share in (0.9, 0.0))
    counts = []
    for position in range(40):
        kept, seen = strict[position][1], loose[position][1]
        assert len(seen.ignore) == 0
        share = float((seen.boxes[:, 3:] - seen.boxes[:, :3]).prod()) / 420  # of 6 x 7 x 10 voxels
        assert len(kept.boxes) == (share >= 0.9)
        assert torch.equal(torch.cat([kept.boxes, kept.ignore]), seen.boxes)
        counts.append(len(kept.boxes))
    assert 0 < sum(counts) < 40


@pytest.mark.parametrize("with_mask", [True, False])
def test_an_object_far_larger_than_a_crop_is_a_target_of_every_crop_placed_on_it(tmp_path, with_mask):
    """No crop of 8^3 voxels holds a tenth of 18 x 22 x 26; of 8^3, as much as fits, each holds a tenth."""
    large = content("x", objects=((1, 0, (1, 1, 1, 19, 23, 27)),), with_mask=with_mask)
    for spatial in (None, SpatialAugment(rotation_p=1, zoom_p=1)):
        crops = object_crops(make_store(tmp_path / str(spatial), large).cases("all"), (8, 8, 8), spatial=spatial)
        for position in range(40):
            targets = crops[position][1]
            assert len(targets.boxes) == 1
            assert len(targets.ignore) == 0


def diagonal(num_voxels) -> CaseData:
    """A line of 16 voxels from corner to corner of its box, of which each axis sees every one."""
    mask = np.zeros(SHAPE, np.uint16)
    mask[np.arange(2, 18), np.arange(2, 18), np.arange(2, 18)] = 1
    box = tuple(map(float, (2, 2, 2, 18, 18, 18)))
    return replace(content("x"), objects=[Instance(1, 0, box, num_voxels)], mask=mask)


@pytest.mark.parametrize("num_voxels", [16, None])
def test_a_thin_object_that_lies_askew_is_a_target_where_a_crop_shows_a_tenth_of_it(tmp_path, num_voxels):
    """The hull of half of it is an eighth of its box, that of a third less than a twentieth."""
    case = make_store(tmp_path, diagonal(num_voxels)).cases("all")[0].open()
    random = np.random.default_rng(0)
    for start_d in range(18):
        for start_h in (2, 10):  # cut along one axis, and along another one too
            _, targets = read_objects(
                CropReader(SHAPE, WINDOW), case, (start_d, start_h, 0), IDENTITY, random, 0.1
            ).apply()
            first = max(start_d, start_h)
            hull = [first - start_d, first - start_h, first, 18 - start_d, 18 - start_h, 18]
            of_box = (18 - max(start_d, 2)) / 16 * (18 - start_h) / 16
            is_target = (of_box if num_voxels is None else (18 - first) / 16) >= 0.1
            assert targets.boxes.tolist() == [hull] * is_target
            assert targets.ignore.tolist() == [hull] * (not is_target)


def test_voxels_are_counted_in_the_file_and_compared_at_the_spacing_of_the_crop(tmp_path):
    """The file has voxels of half the edges, and a crop magnified by 2 shows 8 of each stored one."""
    fine = Grid((40, 48, 56), np.diag([0.5, 0.5, 0.5, 1])[[2, 1, 0, 3]])
    (case,) = make_store(tmp_path, replace(diagonal(16 * 8), source_grid=fine)).cases("all")
    magnified = SpatialTransform(np.eye(3) / 2)
    for spatial_transform, expected in ((IDENTITY, 16), (magnified, 128)):
        sample = read_objects(
            CropReader(SHAPE, WINDOW), case.open(), (0, 0, 0), spatial_transform, np.random.default_rng(0), 0.1
        )
        assert sample.num_voxels.tolist() == [pytest.approx(expected)]


@pytest.mark.parametrize("with_mask", [True, False])
def test_objects_outside_of_a_crop_are_no_targets_whatever_the_share(tmp_path, with_mask):
    both = content("x", objects=((1, 0, (1, 1, 1, 5, 5, 5)), (2, 1, (14, 18, 22, 18, 22, 26))), with_mask=with_mask)
    crops = object_crops(make_store(tmp_path, both).cases("all"), (8, 8, 8), min_visible=0.0)
    for position in range(10):
        (box,) = crops[position][1].boxes  # the two are too far from each other for one crop
        assert (box[3:] > box[:3]).all()


def test_object_crops_hold_an_object_and_every_class_gets_its_turn(tmp_path):
    both = content("x", objects=((1, 0, (1, 1, 1, 5, 5, 5)), (2, 1, (14, 18, 22, 18, 22, 26))))
    cases = make_store(tmp_path, both).cases("all")
    crops = object_crops(cases, (8, 8, 8))
    seen = [set(crops[position][1].labels.tolist()) for position in range(40)]
    assert all(seen)
    assert sum(0 in labels for labels in seen) > 8
    assert sum(1 in labels for labels in seen) > 8


def test_a_case_without_objects_gives_empty_targets(tmp_path):
    cases = make_store(tmp_path, content("x", objects=())).cases("all")
    spatial, intensity = SpatialAugment(rotation_p=1, zoom_p=1), IntensityAugment()
    _, targets = object_crops(cases, (8, 8, 8), spatial=spatial, intensity=intensity)[0]
    assert targets.boxes.shape == (0, 6)
    assert targets.labels.shape == (0,)
    assert targets.mask is not None
    assert int(targets.mask.sum()) == 0


def test_a_whole_object_keeps_its_exact_box_and_a_cut_one_gets_the_hull_of_its_mask(tmp_path):
    # The mask at the store's spacing is a voxel smaller on each side than the box from the file's own spacing.
    one = content("x", objects=((1, 0, (5, 6, 7, 9, 11, 15)),))
    exact = Instance(1, 0, (4.25, 5.5, 6.5, 9.75, 12.0, 15.5))
    cases = make_store(tmp_path, replace(one, objects=[exact])).cases("all")
    whole = object_crops(cases, SHAPE)[0][1]
    assert whole.boxes.tolist() == [list(exact.box_vox)]
    cut = object_crops(cases, (20, 24, 12), min_visible=0.0)
    for position in range(20):
        image, targets = cut[position]
        start_w = round(float((image[0, 0, 0, 0] + 1) * 50))
        if start_w + 12 < 15.5:
            assert targets.boxes[:, 5].tolist() == [min(12, 15 - start_w)]


def test_rotated_boxes_are_the_hull_of_the_rotated_mask(tmp_path):
    cases = make_store(tmp_path, content("x")).cases("all")
    spatial = SpatialAugment(rotation_p=1, zoom_p=1)
    crops = object_crops(cases, (16, 16, 16), seed=4, spatial=spatial)
    for position in range(10):
        _, targets = crops[position]
        for box in targets.boxes:
            assert targets.mask is not None
            index = torch.nonzero(targets.mask)
            assert box.tolist() == [*index.amin(0).tolist(), *(index.amax(0) + 1).tolist()]


def test_an_object_that_no_voxel_of_the_crop_falls_on_keeps_its_moved_box(tmp_path):
    """Of one voxel, rotated and made smaller: every tenth one lies between the places that are read."""
    cases = make_store(tmp_path, content("x", objects=((1, 0, (9, 11, 13, 10, 12, 14)),))).cases("all")
    spatial = SpatialAugment(rotation_p=1, zoom=(0.7, 0.8), zoom_p=1)
    crops = object_crops(cases, (12, 12, 12), spatial=spatial)
    targets = [crops[position][1] for position in range(100)]
    missed = [one for one in targets if not one.mask.any()]
    assert len(missed) > 5
    for one in missed:
        (size,) = (one.boxes[:, 3:] - one.boxes[:, :3]).tolist()
        assert all(0.7 - 1e-4 <= edge <= 0.8 + 1e-4 for edge in size)  # the ball in a cube stays one
    assert all(len(one.boxes) == 1 for one in targets)


def test_crops_on_an_object_in_a_corner_show_it_however_they_are_turned(tmp_path):
    for number, low in enumerate(((0, 0, 0), (18, 22, 26))):  # the other one is the far corner
        box = (*low, *(edge + 2 for edge in low))
        cases = make_store(tmp_path / str(number), content("x", objects=((1, 0, box),))).cases("all")
        crops = object_crops(cases, (16, 16, 16), spatial=SpatialAugment(rotation_p=1, zoom_p=1))
        assert all(len(crops[position][1].boxes) == 1 for position in range(60))
        as_before = object_crops(cases, (16, 16, 16))
        for position in range(5):  # one that is not turned lies inside of the volume
            mask = as_before[position][1].mask
            assert mask is not None
            assert mask.sum() == 8


def test_collate_stacks_images_and_lists_targets(tmp_path):
    cases = make_store(tmp_path, content("x")).cases("all")
    crops = object_crops(cases, (8, 8, 8))
    images, targets = collate_objects([crops[0], crops[1]])
    assert images.shape == (2, 1, 8, 8, 8)
    assert len(targets) == 2


def test_ignore_regions_move_and_are_cut_as_boxes_are(tmp_path):
    one = replace(content("x", objects=((1, 0, (4, 5, 6, 8, 9, 10)),)), ignore_boxes=[(4.0, 5, 6, 8, 9, 10)])
    cases = make_store(tmp_path, one).cases("all")
    spatial = SpatialAugment(rotation_p=0, zoom_p=1)
    for position in range(20):
        targets = object_crops(cases, (10, 10, 10), spatial=spatial, min_visible=0.0)[position][1]
        whole = (targets.boxes > 0).all() and (targets.boxes < 10).all()
        assert targets.ignore is not None
        assert targets.ignore.shape == (1, 6)
        assert not whole or torch.equal(targets.ignore, targets.boxes)
        assert (targets.ignore >= 0).all()
        assert (targets.ignore <= 10).all()
    far = object_crops(
        make_store(tmp_path / "far", replace(one, ignore_boxes=[(18.0, 22, 26, 20, 24, 28)])).cases("all"), (6,) * 3
    )
    assert far[0][1].ignore.shape == (0, 6)


def test_balanced_classes_show_the_rare_class_as_often(tmp_path):
    common = [content(f"c{i}", objects=((1, 0, (4, 5, 6, 8, 9, 10)),)) for i in range(9)]
    rare = content("rare", objects=((1, 1, (4, 5, 6, 8, 9, 10)),))
    cases = make_store(tmp_path, *common, rare).cases("all")
    crops = object_crops(cases, (8, 8, 8), balance_classes=True)
    labels = torch.cat([crops[position][1].labels for position in range(200)])
    assert 0.4 < float(labels.float().mean()) < 0.6  # a tenth of the cases


def test_hulls_by_hand():
    instances = torch.zeros(4, 5, 6, dtype=torch.int64)
    instances[1:3, 2, 3:6] = 2
    instances[0, 0, 0] = 7  # an id that no object has
    hulls = instance_hulls(instances, torch.tensor([2, 5]))
    assert hulls.tolist() == [[1, 2, 3, 3, 3, 6], [0] * 6]


def test_hulls_of_many_objects_are_found_at_once_and_on_a_device_without_waiting(monkeypatch):
    """A pass for each object took 2.5 s for 400 of them, and a GPU was waited for twelve times each."""
    random = np.random.default_rng(0)
    instances = torch.zeros(128, 128, 120, dtype=torch.int64)
    ids = torch.from_numpy(random.permutation(np.arange(1, 801))[:400])
    for number in range(1, 701):  # some of them hide others, and some ids are of no voxel
        d, h, w = random.integers(0, 118, 3)
        instances[d : d + 5, h : h + 4, w : w + 2] = number
    expected = []
    for region in (find_objects(instances.numpy(), 800)[number - 1] for number in ids.tolist()):
        ends = [(one.start, one.stop) for one in region or [slice(0, 0)] * 3]
        expected.append([low for low, _ in ends] + [high for _, high in ends])
    assert [0] * 6 in expected
    passes = []

    def counted_pass(*found):
        passes.append(found)
        find_hulls(*found)

    monkeypatch.setattr("medpretrain3d.loading.instance_hulls._find_hulls", lambda: counted_pass)
    assert instance_hulls(instances, ids).tolist() == expected
    assert len(passes) == 1
    with CountingDevice() as device:
        there = instances.to(DEVICE), ids.to(DEVICE)
        device.reset()
        hulls = instance_hulls(*there)
        assert not device.waits, device.summary
        assert hulls.tolist() == expected
    assert instance_hulls(instances, ids[:0]).shape == (0, 6)


@pytest.mark.parametrize("with_mask", [True, False])
def test_batches_finished_on_the_device_are_those_of_the_workers(tmp_path, with_mask):
    """The switch moves work, it changes nothing: the same parameters are drawn and applied."""
    one = replace(content("x", with_mask=with_mask), ignore_boxes=[(4.0, 5, 6, 8, 9, 10)])
    cases = make_store(tmp_path, one, content("y", with_mask=with_mask)).cases("all")
    spatial, intensity = SpatialAugment(rotation_p=0.5, zoom_p=0.5, elastic_p=0.5), IntensityAugment(*[0.5] * 7)
    positions = range(6)
    workers, device = (
        object_crops(cases, (8, 8, 8), spatial=spatial, intensity=intensity, augment_on=apply_transform)
        for apply_transform in ("workers", "device")
    )
    moved = [sample.to("cpu") for sample in device.collate([device[position] for position in positions])]
    images, targets = apply_deferred_objects(moved)
    expected_images, expected = apply_deferred_objects(workers.collate([workers[position] for position in positions]))
    assert torch.equal(images, expected_images)
    for mine, theirs in zip(targets, expected, strict=True):
        assert torch.equal(mine.boxes, theirs.boxes)
        assert torch.equal(mine.ignore, theirs.ignore)
        assert (mine.mask is None and theirs.mask is None) or torch.equal(mine.mask, theirs.mask)
    reader, order = CropReader((8, 8, 8), WINDOW, spatial, intensity), CaseOrder(cases, 0)
    workers, device = (
        ImageCrops(order, reader, OneView(), apply_transform) for apply_transform in ("workers", "device")
    )
    batches = [
        apply_deferred(crops.collate([crops[position] for position in positions]), OneView())
        for crops in (workers, device)
    ]
    assert torch.equal(batches[0]["image"], batches[1]["image"])
    assert torch.equal(batches[0]["seed"], batches[1]["seed"])


def test_windowing_follows_interpolation_so_that_a_plain_crop_and_its_flip_are_exact(tmp_path):
    cases = make_store(tmp_path, content("x")).cases("all")
    plain = image_crops(cases, SHAPE)[0]["image"]
    flipped = image_crops(cases, SHAPE, spatial=SpatialAugment(rotation_p=0, zoom_p=0))
    for position in range(8):
        candidates = [plain, plain.flip(3)]  # the image is constant along D and H
        assert any(torch.equal(flipped[position]["image"], one) for one in candidates)


def test_small_budgets_are_part_of_large_ones():
    order = nested_order(20)
    assert sorted(order) == list(range(20))
    assert order == nested_order(20)
    assert order != list(range(20))


def test_a_corpus_of_two_stores_and_what_it_refuses(tmp_path):
    make_store(tmp_path / "one", content("x"))
    make_store(tmp_path / "two", content("y"), content("z"))
    corpus = Corpus([tmp_path / "one", tmp_path / "two"])
    assert corpus.name == "one+two"
    assert [ref.case_id for ref in corpus.cases("train")] == ["x", "y", "z"]
    train, held_out = corpus.hold_out("all", 1)
    assert len(train) == 2
    assert len(held_out) == 1
    with pytest.raises(UserError, match="split 'test' has no case in one\\+two; splits with cases: train"):
        corpus.cases("test")
    with pytest.raises(UserError, match="num_val_cases 3 leaves none of the 3 cases"):
        corpus.hold_out("all", 3)
    copy = replace(content("copy_of_x"), voxels="x")
    make_store(tmp_path / "copies", copy, content("v"))
    train, held_out = Corpus([tmp_path / "one", tmp_path / "copies"]).hold_out("all", 1)
    assert {ref.voxels for ref in train}.isdisjoint({ref.voxels for ref in held_out})
    with pytest.raises(UserError, match="num_val_cases 2 leaves none of the 3 cases"):
        Corpus([tmp_path / "one", tmp_path / "copies"]).hold_out("all", 2)
    rows = [write_case(tmp_path / "three", content("w"))]
    write_index(tmp_path / "three", [], (2.0, 2.0, 2.0), rows, {})
    with pytest.raises(UserError, match="stores of different spacing"):
        Corpus([tmp_path / "one", tmp_path / "three"])


@pytest.mark.parametrize("box", [(4, 4, 4, 3, 8, 8), (0, 0, 0, 30, 8, 8), (-3, 0, 0, 4, 4, 4), (0, 0, 0, 4, 4, np.nan)])
def test_a_box_that_is_empty_or_outside_is_refused_and_nothing_is_written(tmp_path, box):
    image, objects = np.zeros((1, *SHAPE), np.int16), [Instance(0, 0, tuple(map(float, box)))]
    with pytest.raises(UserError, match=r"object 0 is empty or outside the volume of \(20, 24, 28\) voxels"):
        write_case(tmp_path, CaseData("x", image, GRID, GRID, "x.nii", objects))
    assert not list(tmp_path.iterdir())
