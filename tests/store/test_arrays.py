"""Compressed arrays on disk."""

from __future__ import annotations

import blosc2
import numpy as np
import pytest
import xxhash

from medpretrain3d.errors import UserError
from medpretrain3d.store.arrays import read_crop, write_array


def test_the_same_array_gives_the_same_bytes(tmp_path):
    array = np.random.default_rng(0).integers(0, 99, (1, 140, 33, 20)).astype(np.int16)
    write_array(tmp_path / "a", array)
    write_array(tmp_path / "b", array.copy(order="F"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    np.testing.assert_array_equal(read_crop(tmp_path / "a"), array)


def test_chunks_lie_in_the_file_where_the_table_says_and_zeros_are_left_out(tmp_path):
    array = np.zeros((1, 64, 32, 32), np.int16)
    array[:, 32:] = np.random.default_rng(0).integers(-1000, 1000, (1, 32, 32, 32))
    write_array(tmp_path / "a", array)
    stored = blosc2.open(str(tmp_path / "a"))
    zeros, noise = np.frombuffer(stored.schunk.vlmeta["chunks"], [("offset", "<i8"), ("size", "<i4"), ("xxh3", "<u8")])
    assert zeros["size"] == 0
    in_file = (tmp_path / "a").read_bytes()[noise["offset"] : noise["offset"] + noise["size"]]
    assert in_file == stored.schunk.get_chunk(1)
    assert xxhash.xxh3_64_intdigest(in_file) == noise["xxh3"]
    np.testing.assert_array_equal(read_crop(tmp_path / "a"), array)


@pytest.mark.parametrize("value", [0, 1, -1, -1024, 5, 32767, -32768])
def test_chunks_of_one_value_come_back(tmp_path, value):
    array = np.full((2, 40, 32, 64), value, np.int16)
    write_array(tmp_path / "a", array)
    np.testing.assert_array_equal(read_crop(tmp_path / "a"), array)


def test_a_header_that_claims_other_voxels_than_its_chunks_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "case" / "image.b2nd"
    path.parent.mkdir()
    write_array(path, np.ones((1, 6, 7, 8), np.int16))
    content = path.read_bytes()
    place = content.index(b"b2nd")
    claim = content.index((8).to_bytes(8, "big"), place)  # the last of the shape
    path.write_bytes(content[:claim] + (2**42).to_bytes(8, "big") + content[claim + 8 :])
    with pytest.raises(UserError, match="is damaged"):
        read_crop(path)
