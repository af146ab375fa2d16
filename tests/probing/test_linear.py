from __future__ import annotations

import numpy as np
import pytest

from medpretrain3d.probing import LinearClassifier, rank_auc
from medpretrain3d.probing.linear import L2


def drawn() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    is_object = random.random(300) < 0.2
    return (random.normal(size=(300, 4)) + is_object[:, None] * [1.0, 0.5, 0, 0]).astype(np.float32), is_object


def test_the_loss_has_no_slope_where_it_ends():
    features, is_object = drawn()
    fitted = LinearClassifier.fitted(features, is_object)
    x = (features - fitted.mean) / fitted.scale
    share = is_object.mean()
    weight = np.where(is_object, 0.5 / share, 0.5 / (1 - share))
    error = weight * (1 / (1 + np.exp(-fitted.log_odds(features))) - is_object)
    assert error.mean() == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose((error[:, None] * x).mean(axis=0) + L2 * fitted.coefficients, 0, atol=1e-6)


def test_a_channel_in_other_units_changes_nothing_and_a_constant_one_neither():
    features, is_object = drawn()
    scaled = features * np.float32([1000, 1, 1, 1]) + np.float32([5, 0, 0, 0])
    constant = np.concatenate([scaled, np.full((300, 1), 7, np.float32)], axis=1)
    plain, other = (LinearClassifier.fitted(one, is_object).log_odds(one) for one in (features, constant))
    np.testing.assert_allclose(other, plain, atol=1e-3)


def test_what_is_separable_is_separated():
    features, is_object = drawn()
    features[:, 3] = is_object
    assert rank_auc(LinearClassifier.fitted(features, is_object).log_odds(features), is_object) == 1
