"""Pseudo-objects of a scan that is made of cubes and balls, whose boxes are known."""

from __future__ import annotations

import numpy as np
import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.pseudo import PseudoOptions, Region, find_pseudo_objects
from medpretrain3d.pseudo.basins import edge_sharpness, flooded
from medpretrain3d.pseudo.region import kept

SPACING = (4.0, 4.0, 4.0)


def scan() -> np.ndarray:
    """A body of fat in air with a rib (4^3 voxels), a vertebra, a cavity and a muscle; a table below it."""
    image = np.full((28, 30, 32), -1000, dtype=np.int16)
    image[:, 3:22, 3:29] = -100
    image[5:9, 5:9, 6:10] = 800
    image[10:13, 15:20, 20:26] = 400
    image[4:8, 14:18, 6:12] = -950
    d, h, w = np.indices(image.shape)
    image[(d - 20) ** 2 + (h - 12) ** 2 + (w - 16) ** 2 < 5**2] = 60
    image[:, 26:28, 3:29] = 900
    return image


def boxes(found, kind):
    return [region.box_vox for region in found.regions if region.kind == kind]


def test_bone_and_air_of_the_body_have_the_boxes_they_were_painted_with_largest_first():
    found = find_pseudo_objects(scan(), SPACING)
    assert boxes(found, "bone") == [(10, 15, 20, 13, 20, 26), (5, 5, 6, 9, 9, 10)]  # not the table
    assert boxes(found, "air") == [(4, 14, 6, 8, 18, 12)]  # not the room


def test_the_muscle_in_fat_is_the_soft_tissue_with_the_sharpest_edge():
    found = find_pseudo_objects(scan(), SPACING, options=PseudoOptions(num_bone=0, num_air=0, num_tissue=1))
    (region,) = found.regions
    mask = np.zeros(scan().shape, dtype=bool)
    mask[region.hull] = region.mask
    muscle = scan() == 60
    assert (mask & muscle).sum() / (mask | muscle).sum() > 0.6


def test_the_same_arguments_give_the_same_objects_and_another_seed_other_blobs():
    options = PseudoOptions(num_blob=3, blob_mm=(8.0, 16.0))
    first, again = (find_pseudo_objects(scan(), SPACING, options=options, seed=4) for _ in range(2))
    other = find_pseudo_objects(scan(), SPACING, options=options, seed=5)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.instances()[0], again.instances()[0])
    assert [region.box_vox for region in first.regions] == [region.box_vox for region in again.regions]
    assert not np.array_equal(first.image, other.image)


def test_a_blob_changes_the_image_where_its_mask_is_and_nowhere_far_from_it():
    options = PseudoOptions(num_bone=0, num_air=0, num_tissue=0, num_blob=1, blob_mm=(20.0, 24.0))
    found = find_pseudo_objects(scan(), SPACING, options=options)
    (blob,) = found.regions
    changed = np.argwhere(found.image != scan())
    low, high = np.array(blob.box_vox[:3]), np.array(blob.box_vox[3:])
    assert np.mean(found.image[blob.hull][blob.mask] != scan()[blob.hull][blob.mask]) > 0.9
    assert (changed >= low - 1).all()
    assert (changed < high + 1).all()


def test_without_a_unit_quantiles_take_the_place_of_hu():
    found = find_pseudo_objects(scan(), SPACING, "any", PseudoOptions(num_tissue=0, bright_quantile=(0.95,)))
    assert {region.kind for region in found.regions} <= {"bright", "dark"}
    assert (5, 5, 6, 9, 9, 10) in boxes(found, "bright")


def test_what_is_left_out_is_counted_by_reason():
    options = PseudoOptions(num_bone=1, num_air=1, num_tissue=0, air_cm3=(50.0, 60.0), bone_hu=(300.0, 350.0))
    found = find_pseudo_objects(scan(), SPACING, options=options)
    # Volumes are 90 and 64 voxels of 0.064 cm^3; at 350 HU the same two are found again, and one more than asked for.
    assert found.dropped["bone"] == {"more than asked for": 1, "the same as another": 1}
    assert found.dropped["air"] == {"too small": 1}
    assert len(boxes(found, "bone")) == 2


def test_the_smaller_of_two_overlapping_objects_is_seen_and_both_keep_their_boxes():
    outer = Region.of_mask("organ", np.ones((8, 8, 8), dtype=bool))
    inner = Region.of_mask("organ", np.ones((2, 2, 2), dtype=bool), (3, 3, 3))
    image = np.full((8, 8, 8), -1000, dtype=np.int16)
    found = find_pseudo_objects(image, SPACING, organ_regions=[inner, outer])
    labels, ids = found.instances()
    assert [region.box_vox for region in found.regions] == [(0, 0, 0, 8, 8, 8), (3, 3, 3, 5, 5, 5)]
    assert (labels[3:5, 3:5, 3:5] == ids[1]).all()
    assert (labels == ids[0]).sum() == 8**3 - 2**3


def test_an_object_that_others_hide_has_no_id_and_keeps_its_box():
    cube, left, right = np.ones((2, 2, 2), dtype=bool), np.ones((2, 2, 1), dtype=bool), np.ones((2, 2, 1), dtype=bool)
    regions = [Region.of_mask("organ", cube), Region.of_mask("organ", left), Region.of_mask("organ", right, (0, 0, 1))]
    image = np.full((4, 4, 4), -1000, dtype=np.int16)
    labels, ids = find_pseudo_objects(image, (10.0, 10.0, 10.0), organ_regions=regions).instances()
    assert ids == [0, 2, 3]
    assert set(np.unique(labels)) == {0, 2, 3}


def test_an_object_whose_seen_part_is_shorter_than_its_box_is_known():
    outer, inner = np.ones((6, 6, 6), dtype=bool), np.ones((2, 2, 2), dtype=bool)
    half = np.ones((6, 3, 6), dtype=bool)
    regions = [Region.of_mask("organ", one, at) for one, at in ((outer, (0, 0, 0)), (inner, (2, 2, 2)))]
    image = np.full((8, 8, 8), -1000, dtype=np.int16)
    found = find_pseudo_objects(image, (10.0, 10.0, 10.0), organ_regions=regions)
    assert found.partly_hidden(*found.instances()) == []  # its outline is seen
    regions = [Region.of_mask("organ", outer), Region.of_mask("organ", half)]
    found = find_pseudo_objects(image, (10.0, 10.0, 10.0), organ_regions=regions)
    assert found.partly_hidden(*found.instances()) == [1]


def test_an_object_of_which_a_crop_would_see_less_than_there_is_is_known():
    """Only slice 0 shows where it ends: the hull of what is seen is whole, and that of slices 1 to 5 is not."""
    outer, end = np.ones((6, 6, 6), dtype=bool), np.ones((5, 6, 2), dtype=bool)
    regions = [Region.of_mask("organ", outer), Region.of_mask("organ", end, (1, 0, 4))]
    found = find_pseudo_objects(np.full((8, 8, 8), -1000, dtype=np.int16), (10.0, 10.0, 10.0), organ_regions=regions)
    assert found.partly_hidden(*found.instances()) == [1]


def test_a_ridge_divides_two_basins_and_its_height_is_their_edge():
    height = np.array([3.0, 1, 2, 7, 5, 4, 6], dtype=np.float32).reshape(1, 1, 7)
    labels = flooded(height, np.ones((1, 1, 7), dtype=bool))
    assert labels.ravel().tolist() == [1, 1, 1, 1, 2, 2, 2]  # the ridge runs off to the lower side
    everywhere = np.ones((1, 1, 7), dtype=bool)
    assert edge_sharpness(labels, height, everywhere, 3).tolist() == [0, 7, 7]
    assert edge_sharpness(labels, height, ~everywhere, 3).tolist() == [0, 0, 0]  # skin
    inside = np.array([True, True, True, False, True, True, True]).reshape(1, 1, 7)
    assert edge_sharpness(flooded(height, inside), height, everywhere, 3).tolist() == [0, 0, 0]


def test_ranks_decide_and_not_the_order_in_which_candidates_come():
    cubes = [
        Region.of_mask("bone", np.ones((2, 2, 2), dtype=bool), (place, 0, 0), rank=1.0) for place in range(0, 12, 3)
    ]
    forth, back = (kept(order, 2, (1e-3, 1e3), 1.0)[0] for order in (cubes, cubes[::-1]))
    assert [one.box_vox for one in forth] == [one.box_vox for one in back]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"bone_cm3": (5.0, 1.0)}, "bone_cm3 5 1"),
        ({"bright_quantile": (1.5,)}, "bright_quantile"),
        ({"sigma_mm": (0.0,)}, "sigma_mm"),
        ({"num_bone": 0, "num_air": 0, "num_tissue": 0}, "no kind of pseudo-object is left"),
    ],
)
def test_options_that_leave_nothing_to_find_are_refused(options, told):
    with pytest.raises(UserError, match=told):
        PseudoOptions(**options)


def test_air_alone_has_no_objects_and_is_no_error():
    found = find_pseudo_objects(np.full((8, 9, 10), -1000, dtype=np.int16), SPACING, options=PseudoOptions(num_blob=2))
    assert found.regions == ()
    assert found.dropped["blob"] == {"no room": 2}
