from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medpretrain3d.inference.bundle import Bundle
from medpretrain3d.inference.config import InferenceConfig
from medpretrain3d.inference.resampled_scan import ResampledRegions, ResampledScan
from medpretrain3d.inference.scan import ScanTiles, TensorTiles, is_air
from medpretrain3d.inference.started_scan import StartedScan
from medpretrain3d.inference.tiles import tile_starts
from medpretrain3d.ingest.prepare import prepare
from medpretrain3d.ingest.prepare_options import PrepareOptions
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.intensity import ZScore
from medpretrain3d.store.preprocessing import Preprocessing
from medpretrain3d.store.resampled_store import resample_store
from medpretrain3d.store.store import Store
from medpretrain3d.store.volume import Volume, read_volume, resample

PATCH = (8, 8, 8)


def volume(shape=(20, 11, 9), spacing_mm=(1.0, 1.0, 1.0), seed=0):
    array = np.random.default_rng(seed).integers(-1024, 1024, (1, *shape)).astype(np.int16)
    grid = Grid(shape, np.diag([*spacing_mm, 1.0]))
    return Volume(array, grid, grid)


class Stored:
    """A scan that is read region by region, as a case of a store; counts voxels, and how often it is read whole."""

    def __init__(self, whole):
        self.whole, self.num_read, self.num_read_whole = whole, 0, 0

    def __getattr__(self, name):
        if name == "array":
            raise AttributeError(name)
        return getattr(self.whole, name)

    def read_image(self, start, size):
        found = self.whole.read_image(start, size).copy()
        self.num_read += found.size
        self.num_read_whole += found.shape == self.whole.array.shape
        return found


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.floats(0.6, 2.2)] * 3), st.integers(0, 2**31))
def test_slabs_of_a_resampled_scan_are_the_resampled_volume(spacing_mm, seed):
    whole = resample(volume(), spacing_mm)
    slabs = ResampledScan(volume(), spacing_mm)
    assert slabs.grid == whole.grid
    random = np.random.default_rng(seed)
    for _ in range(6):  # anywhere, also backwards
        start = [int(random.integers(0, size)) for size in whole.grid.shape]
        size = [int(random.integers(1, 9)) for _ in range(3)]
        np.testing.assert_array_equal(slabs.read_image(start, size), whole.read_image(start, size))


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.floats(0.6, 2.2)] * 3), st.integers(0, 2**31))
def test_regions_of_a_resampled_scan_are_those_of_the_resampled_volume_and_read_no_more(spacing_mm, seed):
    scan = Stored(volume())
    whole, regions = resample(volume(), spacing_mm), ResampledRegions(scan, spacing_mm)
    assert regions.grid == whole.grid
    assert scan.num_read == 0
    random = np.random.default_rng(seed)
    for _ in range(6):
        start = [int(random.integers(0, size)) for size in whole.grid.shape]
        size = [int(random.integers(1, 9)) for _ in range(3)]  # may reach behind the end
        scan.num_read = 0
        np.testing.assert_array_equal(regions.read_image(start, size), whole.read_image(start, size))
        # A voxel is a mean over its width, with a neighbor on each side that linear interpolation takes.
        assert scan.num_read <= np.prod([count * step + 4 + step for count, step in zip(size, spacing_mm, strict=True)])


def test_members_that_resample_a_stored_scan_share_one_copy_of_its_voxels(tiny_detector):
    spacings = [(2.0, 1.5, 1.0), (1.0, 1.5, 1.0), None]
    for members, num_read in (([spacings[0]], 1), (spacings, 1), (spacings[2:] * 3, 0)):
        scan = Stored(volume())
        bundles = [
            Bundle(tiny_detector, ("a",), Preprocessing((16, 16, 16), one), InferenceConfig(), {}, "0")
            for one in members
        ]
        started = StartedScan(scan, bundles, [InferenceConfig()] * len(members), 1, "32-true")
        started.close()
        assert scan.num_read_whole == num_read
        for tiles, one in zip(started.tiles, members, strict=True):
            alone = ScanTiles(volume(), Preprocessing(PATCH, one))
            for start in tile_starts(tiles.shape, PATCH, 0.5):
                assert torch.equal(tiles.read(start, PATCH), alone.read(start, PATCH))


def test_tiles_read_front_to_back_have_every_slice_resampled_once(monkeypatch):
    scan, computed = ResampledScan(volume(), (0.5, 1.0, 1.0)), []
    resample_slices = scan._resample
    monkeypatch.setattr(scan, "_resample", lambda slices: computed.extend(slices) or resample_slices(slices))
    for start in tile_starts(scan.grid.shape, PATCH, 0.5):
        scan.read_image(start, PATCH)
        assert scan._slab.shape[1] <= PATCH[0]
    assert computed == list(range(40))


def test_tiles_of_a_scan_are_what_the_network_was_trained_on():
    preprocessing = Preprocessing(PATCH, spacing_mm=(2.0, 1.5, 1.0))
    tiles = ScanTiles(volume(), preprocessing)
    whole = resample(volume(), (2.0, 1.5, 1.0))
    reference = TensorTiles(torch.from_numpy(preprocessing.window(whole.array)), -1.0)
    assert tiles.shape == (10, 8, 9)
    assert tiles.spacing_mm == (2.0, 1.5, 1.0)
    for start in tile_starts(tiles.shape, PATCH, 0.5):
        assert torch.equal(tiles.read(start, PATCH), reference.read(start, PATCH))


def test_tiles_of_other_units_are_normalised_by_the_whole_volume_and_padded_with_its_lowest_value():
    scan = replace(volume(), rescale=((1.0, 0.0),))
    tiles = ScanTiles(scan, Preprocessing((32, 32, 32), window=ZScore(), unit="any"))
    d, h, w = scan.grid.shape
    tile = tiles.read((0, 0, 0), (32, 32, 32))
    normalized = ZScore().fitted(scan.statistics)(scan.array)
    np.testing.assert_array_equal(tile[:, :d, :h, :w].numpy(), normalized)
    assert tile[:, d:].unique().item() == normalized.min()


@pytest.mark.parametrize("spacing_mm", [None, (1.0, 1.0, 1.0), (1.0000001, 1.0, 1.0)])
def test_a_scan_of_the_right_spacing_is_not_resampled(spacing_mm):
    scan = volume()
    assert ScanTiles(scan, Preprocessing(PATCH, spacing_mm)).scan is scan


def test_air_with_noise_is_air():
    noise = np.random.default_rng(0).normal(-1000, 60, (1, 32, 32, 32)).astype(np.int16)
    assert noise.max() > -800  # a rule on single voxels would look at this tile
    assert is_air(noise)


def test_a_small_lesion_in_air_is_not_air():
    tile = np.full((1, 16, 16, 16), -1000, np.int16)
    tile[0, 4:6, 4:6, 4:6] = 40  # 8 of the 64 voxels of a block: -1000 + 1040 / 8 = -870
    assert not is_air(tile)
    tile[0, 4:6, 4:6, 5] = -1000  # 4 of 64: -935
    assert is_air(tile)


def test_one_channel_above_air_is_enough():
    tile = np.full((2, 6, 6, 6), -1000, np.int16)
    assert is_air(tile)
    tile[1] = 0
    assert not is_air(tile)


def test_a_tile_smaller_than_a_block_is_judged_by_what_it_has():
    assert is_air(np.full((1, 2, 3, 5), -1000, np.int16))
    assert not is_air(np.full((1, 2, 3, 5), -800, np.int16))


def test_empty_tiles_are_none_and_others_padded_with_air():
    scan = volume((5, 8, 8))
    scan.array[:] = -1000
    tiles = ScanTiles(scan, Preprocessing(PATCH))
    assert tiles.read((0, 0, 0), PATCH) is None
    scan.array[:] = 300  # constant
    assert tiles.read((0, 0, 0), PATCH) is None
    scan.array[0, 0] = 0
    tile = tiles.read((0, 0, 0), PATCH)
    assert tile.shape == (1, *PATCH)
    assert (tile[:, 5:] == -1).all()


def test_behind_the_end_of_a_scan_is_the_same_of_its_file_and_of_a_store_at_another_spacing(tmp_path, write_nifti):
    noise = np.random.default_rng(0).normal(600, 150, (16, 16, 16)).clip(1).astype(np.int16)
    path = write_nifti(noise, "raw/scan.nii.gz", np.diag([1.0, 1, 1, 1]))
    of_file = read_volume(path, "any")
    assert min(of_file.pad_values) < resample(of_file, (2, 2, 2)).array.min()  # means are never as low as noise
    preprocessing = Preprocessing(patch=(12, 12, 12), spacing_mm=(2, 2, 2), window=ZScore(), unit="any")
    expected = ScanTiles(of_file, preprocessing).read((0, 0, 0), (12, 12, 12))
    prepare(path.parent, tmp_path / "native", PrepareOptions(unit="any"))
    prepare(path.parent, tmp_path / "store", PrepareOptions((2, 2, 2), unit="any"))
    resample_store(tmp_path / "native", tmp_path / "resampled", (2, 2, 2))
    for name in ("native", "store", "resampled"):
        tile = ScanTiles(Store(tmp_path / name).case("scan"), preprocessing).read((0, 0, 0), (12, 12, 12))
        torch.testing.assert_close(tile, expected, rtol=0, atol=0)
