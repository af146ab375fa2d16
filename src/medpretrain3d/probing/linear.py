"""Logistic regression on frozen features: the linear probe (Alain and Bengio, 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

L2 = 1e-3
"""Weight of half the squared norm of the coefficients beside the mean loss."""
MAX_ITERATIONS = 200


@dataclass(frozen=True, eq=False)
class LinearClassifier:
    """A linear layer behind a standardization: the log-odds of features (N, C)."""

    mean: np.ndarray
    scale: np.ndarray
    coefficients: np.ndarray
    """(C,) of standardized features."""
    intercept: float

    @staticmethod
    def fitted(features: np.ndarray, is_object: np.ndarray, l2: float = L2) -> LinearClassifier:
        """Minimize the mean logistic loss, in which both classes weigh alike, by L-BFGS in double precision.

        Args:
            features: (N, C); channels that are constant get a coefficient of 0.
            is_object: (N,) bool, some of each.
            l2: weight of the penalty.
        """
        mean, scale = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
        scale = np.where(scale > 1e-12 * (1 + np.abs(mean)), scale, np.inf)
        x = torch.from_numpy((features - mean) / scale)
        y = torch.from_numpy(is_object.astype(np.float64))
        weight = torch.where(y > 0, 0.5 / y.mean(), 0.5 / (1 - y).mean())
        line = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
        solver = torch.optim.LBFGS([line], max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            solver.zero_grad()
            odds = x @ line[:-1] + line[-1]
            value = torch.nn.functional.binary_cross_entropy_with_logits(odds, y, weight)
            value = value + l2 / 2 * line[:-1].square().sum()
            value.backward()
            return value

        solver.step(loss)
        found = line.detach().numpy()
        return LinearClassifier(mean, scale, found[:-1], float(found[-1]))

    def log_odds(self, features: np.ndarray) -> np.ndarray:
        """Return the log-odds of an object at each of (N, C): (N,)."""
        return np.asarray((features - self.mean) / self.scale @ self.coefficients + self.intercept)
