"""Weights turned from another frame: the original on its volume equals ours on the turned one."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from medpretrain3d.backbones.checkpoints.frame import OWN, orientations, turn_convolutions, turn_from
from medpretrain3d.errors import UserError


@pytest.mark.parametrize("orientation", orientations())
def test_a_volume_is_turned_as_nibabel_turns_it(orientation):
    theirs = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    way = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt(orientation), nib.orientations.axcodes2ornt(OWN)
    )
    ours = nib.orientations.apply_orientation(theirs, way)
    turn = turn_from(orientation)
    assert np.array_equal(turn.volume(torch.from_numpy(theirs)).numpy(), ours)
    assert turn.sizes(theirs.shape) == ours.shape
    assert turn.is_identity == (orientation == OWN)


@pytest.mark.parametrize("orientation", ["RAR", "ras", "RA", "RASS", "XYZ", ""])
def test_what_is_no_orientation_is_refused(orientation):
    with pytest.raises(UserError, match="wanted three letters"):
        turn_from(orientation)


def test_convolutions_say_where_turning_is_not_exact():
    torch.manual_seed(0)
    weights = {"conv.weight": torch.randn(2, 1, 3, 3, 3), "conv.bias": torch.randn(2)}
    assert turn_convolutions(weights, "SPL")[1] == []
    assert "which is exact" in turn_convolutions(weights, "LSP")[1][0]
    turned, (note,) = turn_convolutions(weights, "RAS")
    assert "(of P, L)" in note
    x = torch.randn(1, 1, 4, 5, 6)
    turn = turn_from("RAS")
    expected = turn.volume(torch.conv3d(x, weights["conv.weight"], weights["conv.bias"], padding=1))
    ours = torch.conv3d(turn.volume(x), turned["conv.weight"], turned["conv.bias"], padding=1)
    torch.testing.assert_close(ours, expected)
