from __future__ import annotations

import numpy as np
import pytest

from medpretrain3d.configurable import from_config, to_config
from medpretrain3d.errors import UserError
from medpretrain3d.store import ClippedZScore, PercentileWindow, Window
from medpretrain3d.store.statistics import PERCENTS, ChannelStatistics, channel_statistics

OLDER = [ChannelStatistics.from_json({"mean": 1.0, "std": 2.0, "low": 0.0, "high": 3.0})]


def volume() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 900, (2, 9, 8, 7)).astype(np.int16)


def test_a_clipped_z_score_is_that_of_the_whole_clipped_volume():
    image = volume()
    clipped = np.clip(image.astype(np.float64), -1000, 1000)
    expected = np.stack([(one - one.mean()) / one.std() for one in clipped])
    fitted = ClippedZScore().fitted(channel_statistics(image, [-1024, -1024]))
    np.testing.assert_allclose(fitted(image), expected, atol=1e-5)
    np.testing.assert_array_equal(fitted(image[:, 2:4]), fitted(image)[:, 2:4])
    assert ClippedZScore().suits("hu")
    assert not ClippedZScore().suits("any")
    with pytest.raises(UserError, match=r"wanted -1000 \.\. 1000"):
        ClippedZScore(-900, 900)
    with pytest.raises(UserError, match=r"prepare` on it again"):
        ClippedZScore().fitted(OLDER)
    with pytest.raises(UserError, match="needs the volume's statistics"):
        ClippedZScore()(image)


def test_a_percentile_window_is_numpys_percentiles():
    image = volume()
    statistics = channel_statistics(image, [-1024, -1024])
    np.testing.assert_allclose(statistics[0].percentiles_of_all, np.percentile(image[0], PERCENTS), atol=1e-9)
    low, high = np.percentile(image, [0.5, 99.0], axis=(1, 2, 3), keepdims=True)
    expected = np.clip((image - low) / (high - low), 0, 1)
    fitted = PercentileWindow(0.5, 99, output_range=(0, 1)).fitted(statistics)
    np.testing.assert_allclose(fitted(image), expected, atol=1e-5)
    constant = np.full((1, 2, 2, 2), 7, np.int16)
    assert np.isfinite(PercentileWindow().fitted(channel_statistics(constant, [0]))(constant)).all()
    with pytest.raises(UserError, match="wanted two of those"):
        PercentileWindow(2, 98)
    with pytest.raises(UserError, match=r"prepare` on it again"):
        PercentileWindow().fitted(OLDER)


def test_statistics_and_windows_survive_a_file():
    (one, _) = channel_statistics(volume(), [-1024, -1024])
    assert ChannelStatistics.from_json(one.to_json()) == one
    for window in (ClippedZScore(), PercentileWindow(0.05, 99.95), Window(-1000, 1000, output_range=(0, 1))):
        assert to_config(from_config(to_config(window))) == to_config(window)


def test_the_output_range_of_a_window():
    image = np.array([-2000, -1000, 0, 500, 3000], np.int16)
    assert Window(-1000, 1000, output_range=(0, 1))(image).tolist() == [0, 0, 0.5, 0.75, 1]
    assert Window(-1000, 1000)(image).tolist() == [-1, -1, 0, 0.5, 1]
    assert "output_range" not in to_config(Window(-1000, 1000))["init_args"]  # files stay as earlier versions read them
    with pytest.raises(UserError, match=r"output_range 1 \.\. 0"):
        Window(-1000, 1000, output_range=(1, 0))
