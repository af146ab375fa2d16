from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from medpretrain3d.ingest.contours import fill_contours
from medpretrain3d.store.grid import Grid
from tests.dicom_files import AXIAL, traced

FILLED = "slices without a contour between planes a step apart, which took the nearer one"
STS = Path(__file__).parents[3] / "shared/data/sts"


def ellipsoid(shape: tuple[int, int, int] = (40, 44, 12), hole: bool = False) -> np.ndarray:
    x, y, z = np.meshgrid(*(np.linspace(-1.2, 1.2, size) for size in shape), indexing="ij")
    radius = x**2 + y**2 + z**2
    return (radius <= 1) & ((radius >= 0.15) | (not hole))


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def box(mask: np.ndarray) -> np.ndarray:
    found = np.argwhere(mask)
    return np.concatenate([found.min(axis=0), found.max(axis=0) + 1])


def oblique(degrees: float = 25.0) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [degrees, 10, 5], degrees=True).as_matrix() @ AXIAL[:3, :3]
    affine[:3, 3] = (-120.3, 40.7, 900.25)
    return affine


@pytest.mark.parametrize("affine", [AXIAL, oblique()], ids=["axial", "oblique"])
@pytest.mark.parametrize("hole", [False, True])
def test_a_mask_that_was_traced_comes_back(affine, hole):
    mask = ellipsoid(hole=hole)
    found = fill_contours(traced(mask, affine), Grid(mask.shape, affine))
    np.testing.assert_array_equal(found.mask, mask)
    assert not found.remarks


def test_the_order_of_the_files_axes_does_not_matter():
    """The same scan with its slices first and turned around, as a NIfTI file may have it."""
    mask = ellipsoid()
    turned = AXIAL[:, [2, 0, 1, 3]] @ np.diag([-1, 1, 1, 1])
    turned[:3, 3] = AXIAL[:3, 2] * (mask.shape[2] - 1)
    expected = mask.transpose(2, 0, 1)[::-1]
    found = fill_contours(traced(mask, AXIAL), Grid(expected.shape, turned))
    np.testing.assert_array_equal(found.mask, expected)


@pytest.mark.parametrize("name", ["STS_008", "STS_019"])
def test_real_tumours_come_back_from_their_contours(name):
    if not STS.is_dir():
        pytest.skip(f"{STS} is not here")
    file = nib.load(STS / f"{name}_CT_mask.nii.gz")
    mask = np.asarray(file.dataobj) > 0
    affine = np.diag([-1.0, -1, 1, 1]) @ file.affine
    grid = Grid(mask.shape, affine)
    found = fill_contours(traced(mask, affine, decimals=2), grid).mask
    assert dice(found, mask) >= 0.999
    np.testing.assert_array_equal(box(found), box(mask))
    # Half a pixel and half a slice beside the grid they are filled on, as after another reconstruction.
    shifted = affine.copy()
    shifted[:3, 3] += affine[:3, :3] @ (0.5, 0.5, 0.5)
    moved = fill_contours(traced(mask, affine, decimals=2), Grid(mask.shape, shifted)).mask
    assert np.abs(box(moved) - box(mask)).max() <= 1


def test_contours_on_every_second_slice_fill_those_between_and_a_hole_in_the_stack_stays():
    mask = np.zeros((20, 20, 14), dtype=bool)
    mask[5:15, 5:15, 2:11] = True
    contours = traced(mask, AXIAL)  # slices 2 to 10
    assert len(contours) == 9
    grid = Grid(mask.shape, AXIAL)
    every_second = fill_contours(contours[::2], grid)
    np.testing.assert_array_equal(every_second.mask, mask)
    assert every_second.remarks == {FILLED: 4}
    without_two = fill_contours(contours[:3] + contours[5:], grid)
    mask[:, :, 5:7] = False
    np.testing.assert_array_equal(without_two.mask, mask)
    assert sum(without_two.remarks.values()) == 2


def square(x: float, size: float, z: float) -> np.ndarray:
    return np.array([[x, x, z], [x + size, x, z], [x + size, x + size, z], [x, x + size, z]])


@pytest.mark.parametrize(
    ("lesions", "gaps"),
    [
        ({2: [10, 11], 20: [20]}, 8),  # distances of 1 and 9
        ({2: [10], 20: [20]}, 9),
        ({2: [10], 4: [20]}, 9),  # one over the other
        ({2: [10, 11, 12], 20: [20, 21, 22]}, 7),
        ({2: [4], 12: [14], 22: [24]}, 18),  # as many slices apart, and beside each other
        ({2: [10, 12, 14], 20: [20, 22, 24]}, 5),
    ],
)
def test_lesions_on_few_slices_are_as_thick_as_they_were_drawn(lesions, gaps):
    contours = [square(x, 6, z) for x, those in lesions.items() for z in those]
    found = fill_contours(contours, Grid((40, 40, 30), np.eye(4)))
    slices = [z for those in lesions.values() for z in range(those[0], those[-1] + 1)]
    assert np.flatnonzero(found.mask.any(axis=(0, 1))).tolist() == slices
    assert found.remarks["slices without a contour between slices with one, which were left empty"] == gaps


def test_contours_finer_than_the_slices_and_between_them():
    """Each slice takes one plane: a stack of 1 mm on slices of 2.5 mm, of which no two exclude each other."""
    fine = AXIAL @ np.diag([1, 1, 0.4, 1])
    mask = np.zeros((20, 20, 30), dtype=bool)
    mask[5:15, 5:15, 5:21] = True  # 5 mm to 20 mm
    found = fill_contours(traced(mask, fine), Grid((20, 20, 12), AXIAL)).mask
    assert box(found).tolist() == [5, 5, 2, 15, 15, 9]  # slices at 5 to 20 mm
    between = AXIAL.copy()
    between[2, 3] = 1.25
    half = np.zeros((20, 20, 12), dtype=bool)
    half[5:15, 5:15, 3:7] = True
    found = fill_contours(traced(half, between), Grid((20, 20, 12), AXIAL)).mask
    assert found.sum() == half.sum()


def test_contours_oblique_to_the_scan_are_filled_in_their_own_planes():
    fine, shape = np.diag([1.0, 1, 1, 1]), (48, 48, 48)
    mask = ellipsoid(shape)
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_euler("x", 20, degrees=True).as_matrix()
    turned[:3, 3] = 23.5 - turned[:3, :3] @ np.full(3, 23.5)  # about the middle
    found = fill_contours(traced(mask, turned), Grid(shape, fine)).mask
    assert dice(found, mask) > 0.98  # a ball is one however it is turned
    assert np.abs(box(found) - box(mask)).max() <= 1


def test_what_lies_outside_of_the_scan_is_left_out_and_counted():
    mask = ellipsoid()
    contours = traced(mask, AXIAL)
    grid = Grid(mask.shape, AXIAL)
    cut = grid.crop((0, 0, 4), (40, 44, 5))
    found = fill_contours(contours, cut)
    np.testing.assert_array_equal(found.mask, mask[:, :, 4:9])
    assert found.remarks["contours outside of the scan, which were left out"] == np.count_nonzero(
        mask.any(axis=(0, 1)) & ~np.isin(np.arange(12), range(4, 9))
    )
    far = [contour + 5000 for contour in contours]
    assert not fill_contours(far, grid).mask.any()


def test_a_contour_across_the_planes_of_the_others_is_left_out():
    mask = ellipsoid()
    contours = traced(mask, AXIAL)
    across = contours[5] @ np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]])
    found = fill_contours([*contours, across], Grid(mask.shape, AXIAL))
    np.testing.assert_array_equal(found.mask, mask)
    assert sum(found.remarks.values()) == 1


def test_two_regions_in_one_plane_with_a_slice_a_little_off():
    """Positions written with a few decimals stay in one plane."""
    mask = np.zeros((30, 30, 5), dtype=bool)
    mask[3:10, 3:10, 2] = mask[15:25, 15:25, 2] = True
    first, second = traced(mask, AXIAL)
    found = fill_contours([first + np.array([0, 0, 0.04]), second - np.array([0, 0, 0.04])], Grid(mask.shape, AXIAL))
    np.testing.assert_array_equal(found.mask, mask)
