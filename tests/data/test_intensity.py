from __future__ import annotations

import numpy as np
import pytest
import torch

from medpretrain3d.data.intensity import Window
from medpretrain3d.description import build, describe
from medpretrain3d.errors import UserError


def test_a_window_maps_its_ends_to_minus_one_and_one_and_cuts_the_rest():
    image = np.array([-2000, -1000, -300, 50, 400, 3000], dtype=np.int16)
    scaled = Window(-1000, 400)(image)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, [-1, -1, 0, 0.5, 1, 1])
    assert image[0] == -2000  # the input is left alone


def test_the_widest_values_of_int16_do_not_wrap_around():
    np.testing.assert_array_equal(Window()(np.array([-32768, 32767], np.int16)), [-1, 1])


def test_arrays_and_tensors_agree():
    hu = np.arange(-1500, 1500, 7, dtype=np.int16)
    np.testing.assert_allclose(Window(-150, 250)(torch.from_numpy(hu)).numpy(), Window(-150, 250)(hu), atol=1e-7)


def test_a_window_is_rebuilt_from_its_description():
    assert build(describe(Window(-150, 250))) == Window(-150, 250)


@pytest.mark.parametrize("ends", [(1, 1), (5, -5), (float("nan"), 1), (0, float("inf"))])
def test_a_window_without_width_is_refused(ends):
    with pytest.raises(UserError, match="first must be below the second"):
        Window(*ends)
