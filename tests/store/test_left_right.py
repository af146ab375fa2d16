"""Classes that a mirror image exchanges are known by their names."""

from __future__ import annotations

import pytest

from medpretrain3d.store.left_right import left_right_pairs, mirrored_sides


@pytest.mark.parametrize(
    ("classes", "pairs"),
    [
        (["parotid_right", "cord", "parotid_left"], [("parotid_left", "parotid_right")]),
        (["Left Kidney", "Right Kidney"], [("Left Kidney", "Right Kidney")]),
        (["KidneyL", "KidneyR"], [("KidneyL", "KidneyR")]),
        (["Parotid-L", "Parotid-R"], [("Parotid-L", "Parotid-R")]),
        (["lung (left)", "lung (right)"], [("lung (left)", "lung (right)")]),
        (["rib_left_1", "rib_right_1", "rib_left_2"], [("rib_left_1", "rib_right_1")]),
        (["left", "right"], [("left", "right")]),
        (["left atrium", "right ventricle"], []),
        (["lesion", "leftover", "rightly"], []),
        (["nodule"], []),
        ([], []),
    ],
)
def test_pairs(classes, pairs):
    assert left_right_pairs(classes) == pairs


def test_only_mirroring_the_left_right_axis_exchanges_them():
    sides = ["kidney_left", "kidney_right"]
    assert mirrored_sides(sides, (0, 1)) == ""
    assert mirrored_sides(["nodule"], (0, 1, 2)) == ""
    assert "'kidney_left' and 'kidney_right' are classes of their own" in mirrored_sides(sides, (2,))
    assert "and 1 more pairs are" in mirrored_sides([*sides, "lung_left", "lung_right"], (0, 1, 2))
