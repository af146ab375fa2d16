from __future__ import annotations

import numpy as np
import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.prepare import prepare
from medpretrain3d.store.foreground import foreground_normalization
from medpretrain3d.store.store import Store


def test_the_foreground_is_the_inside_of_the_training_objects(make_dataset, tmp_path):
    prepare(make_dataset(["a", "b", "c"]), tmp_path / "store")
    store = Store(tmp_path / "store")
    # Cases hold 60, 61 and 62 in 27 + 8 + 7 voxels each, -900 around them.
    found = foreground_normalization(store)
    assert (found.mean[0], found.low[0], found.high[0]) == (61, 60, 62)
    assert found.std[0] == pytest.approx(np.sqrt(2 / 3))
    cut = found(np.array([-900, 61, 999], np.int16))
    np.testing.assert_allclose(cut, np.array([-1, 0, 1]) / np.sqrt(2 / 3), rtol=1e-6)
    with pytest.raises(UserError, match="split 'val' has no object to measure"):
        foreground_normalization(store, "val")


def test_objects_of_one_value_are_not_called_none(make_dataset, tmp_path):
    prepare(make_dataset(["a"]), tmp_path / "store")  # whose objects are 60 throughout
    with pytest.raises(UserError, match="objects of split 'train' have the one value 60 in channel 0"):
        foreground_normalization(Store(tmp_path / "store"))
