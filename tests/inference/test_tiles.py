from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpretrain3d.errors import UserError
from medpretrain3d.inference.tiles import axis_starts, tile_starts

sizes = st.integers(1, 400)
patches = st.integers(1, 128)
overlaps = st.floats(0, 0.95)


def test_tiles_written_out():
    # 10 voxels, patch 4, half overlap: steps of at most 2, (10 - 4) / 2 = 3 of them.
    assert axis_starts(10, 4, 0.5) == [0, 2, 4, 6]
    # 11 voxels: 7 / 2 needs 4 steps, spread over 7 voxels.
    assert axis_starts(11, 4, 0.5) == [0, 1, 3, 5, 7]
    assert axis_starts(8, 4, 0.0) == [0, 4]
    assert axis_starts(4, 4, 0.5) == [0]


def test_last_axis_runs_fastest():
    assert tile_starts((6, 4, 6), (4, 4, 4)) == [(0, 0, 0), (0, 0, 2), (2, 0, 0), (2, 0, 2)]


def test_a_volume_smaller_than_the_patch_is_one_tile_at_its_origin():
    assert tile_starts((5, 7, 9), (16, 16, 16)) == [(0, 0, 0)]


@given(sizes, patches, overlaps)
def test_tiles_cover_everything_stay_inside_and_overlap_enough(size, patch, overlap):
    starts = axis_starts(size, patch, overlap)
    covered = np.zeros(max(size, patch), dtype=bool)
    for start in starts:
        covered[start : start + patch] = True
    assert covered[:size].all()
    if size > patch:
        assert starts[0] == 0
        assert starts[-1] == size - patch
        least = min(math.ceil(overlap * patch - 1e-9), patch - 1)  # a step is at least one voxel
        assert all(first + patch - second >= least for first, second in itertools.pairwise(starts))


@given(sizes, patches, overlaps)
def test_no_smaller_number_of_tiles_has_the_overlap(size, patch, overlap):
    starts = axis_starts(size, patch, overlap)
    step = max(1, patch - math.ceil(overlap * patch - 1e-9))
    one_less = len(starts) - 1
    if one_less:
        assert (one_less - 1) * step + patch < size  # even at the largest step the end would stay uncovered


@given(sizes, patches, overlaps)
def test_distances_differ_by_one_voxel_at_most(size, patch, overlap):
    distances = np.diff(axis_starts(size, patch, overlap))
    assert not len(distances) or distances.max() - distances.min() <= 1


@pytest.mark.parametrize("overlap", [-0.1, 1.0, 1.5])
def test_overlap_out_of_range_is_refused(overlap):
    with pytest.raises(UserError, match="overlap"):
        tile_starts((8, 8, 8), (4, 4, 4), overlap)


def test_a_patch_without_voxels_is_refused():
    with pytest.raises(UserError, match="at least 1 voxel"):
        tile_starts((8, 8, 8), (4, 0, 4))
