from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from medpretrain3d.loading.augment import IntensityAugment, IntensityChange
from medpretrain3d.loading.batches import generator_at


def image(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_changes_are_repeatable_and_leave_the_input_alone():
    before = image(1, 8, 8, 8)
    crop = before.clone()
    always = IntensityAugment(1, 1, 1, 1, 1, 1, 1)
    change = always.draw(generator_at(0, 5))
    assert change == always.draw(generator_at(0, 5)) != always.draw(generator_at(0, 6))
    assert torch.equal(change(crop), change(crop))
    assert torch.isfinite(change(crop)).all()
    assert torch.equal(crop, before)
    assert not torch.equal(change(crop), before)


def test_what_is_not_drawn_is_not_done():
    never = IntensityAugment(0, 0, 0, 0, 0, 0, 0).draw(generator_at(0, 5))
    assert never == IntensityChange()
    crop = image(1, 8, 8, 8)
    assert never(crop) is crop


@pytest.mark.parametrize("operation", ["noise", "blur", "brightness", "contrast", "gamma"])
def test_each_operation_happens_as_often_as_its_probability_says(operation):
    changes = [IntensityAugment().draw(generator_at(1, position)) for position in range(2000)]
    name = "blur_sigma_vox" if operation == "blur" else operation
    happened = np.mean([getattr(change, name) != getattr(IntensityChange(), name) for change in changes])
    # Probabilities of the nnDetection recipe; the standard error of a share of 2,000 is at most 0.0103.
    assert happened == pytest.approx(getattr(IntensityAugment(), f"{operation}_p"), abs=0.04)


def test_blur_is_a_gaussian_filter():
    crop = image(2, 20, 21, 22)
    inner = (slice(None), *[slice(5, -5)] * 3)  # at the border ours averages what is there, scipy's mirrors
    expected = np.stack([gaussian_filter(channel, 0.8) for channel in crop.numpy()])
    np.testing.assert_allclose(IntensityChange(blur_sigma_vox=0.8)(crop)[inner], expected[inner], atol=1e-4)
    flat = torch.full((1, 9, 9, 9), 0.5)
    torch.testing.assert_close(IntensityChange(blur_sigma_vox=1.0)(flat), flat)


def test_half_the_resolution_by_hand():
    row = torch.tensor([0.0, 4.0, 0.0, 8.0]).expand(1, 4, 4, 4)
    # Two coarse voxels centred at 1 and 3 take the voxels 1 and 3; in between the way back is linear, outside constant.
    torch.testing.assert_close(IntensityChange(low_resolution=0.5)(row)[0, 0, 0], torch.tensor([4.0, 5.0, 7.0, 8.0]))


def test_noise_has_its_deviation():
    noisy = IntensityChange(noise=(0.2, 7))(torch.zeros(1, 32, 32, 32))
    assert float(noisy.std()) == pytest.approx(0.2, rel=0.02)
    assert float(noisy.mean()) == pytest.approx(0, abs=0.005)


def test_contrast_keeps_mean_and_range_and_brightness_scales():
    crop = image(1, 8, 8, 8)
    weaker = IntensityChange(contrast=0.8)(crop)
    torch.testing.assert_close(weaker - crop.mean(), (crop - crop.mean()) * 0.8)
    stronger = IntensityChange(contrast=1.2)(crop)
    assert stronger.min() >= crop.min()
    assert stronger.max() <= crop.max()
    torch.testing.assert_close(IntensityChange(brightness=0.9)(crop), crop * 0.9)


def test_gamma_keeps_mean_and_deviation_and_a_constant_image():
    crop = image(1, 8, 8, 8)
    for change in (IntensityChange(gamma=1.4), IntensityChange(inverted_gamma=0.8)):
        torch.testing.assert_close(change(crop).mean(), crop.mean())
        torch.testing.assert_close(change(crop).std(), crop.std())
        assert not torch.allclose(change(crop), crop)
        flat = torch.full((1, 4, 4, 4), 0.5)
        torch.testing.assert_close(change(flat), flat)


@pytest.mark.parametrize("exponent", [0.7, 1.5])
def test_gamma_is_its_formula_in_double_precision(exponent):
    """Also of a whole patch, where sums of squares in single precision would be off by a thousandth."""
    crop = (1.5 * image(1, 96, 96, 96) + 0.2).clamp(-1, 1)
    exact = crop.double()
    low, high = exact.aminmax()
    curved = ((exact - low) / (high - low)) ** exponent * (high - low) + low
    expected = (curved - curved.mean()) / curved.std(correction=0) * exact.std(correction=0) + exact.mean()
    found = IntensityChange(gamma=exponent)(crop)
    torch.testing.assert_close(found.double(), expected, atol=2e-6, rtol=0)


def test_no_channel_is_changed_by_what_another_one_holds():
    """CT within a window beside PET with few bright voxels: taken as one, gamma narrowed the CT by 40 %."""
    two = torch.cat([0.3 * image(1, 8, 8, 8) - 0.6, 6 * image(1, 8, 8, 8).abs() ** 6 - 0.5])
    changes = [IntensityChange(**{name: 0.8}) for name in ("contrast", "gamma", "inverted_gamma")]
    changes += [IntensityChange(blur_sigma_vox=0.7), IntensityChange(low_resolution=0.6), IntensityChange(brightness=2)]
    for change in changes:
        assert torch.equal(change(two), torch.cat([change(channel[None]) for channel in two]))
