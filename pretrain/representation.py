"""Representation quality metrics, measured on a few hundred features: pure functions of tensors.

All of them are NaN where features are not finite.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def feature_std(features: Tensor) -> float:
    """Spread of features (N, C) over the sphere: 1 for directions at random, 0 where all rows point the same way.

    Standard deviation of each channel of the rows scaled to length 1, averaged, times sqrt(C) (Chen and He, 2021).
    """
    rows = F.normalize(features.double(), dim=1)
    return rows.std(0, correction=0).mean().item() * math.sqrt(features.shape[1])


def knn_accuracy(train: Tensor, labels: Tensor, test: Tensor, truth: Tensor, neighbors: int = 5) -> float:
    """Return mean over classes of the share of test rows whose `neighbors` most similar train rows vote for the truth.

    Similarity is the cosine; votes are weighted by it. Rows are (N, C) and (M, C), labels (N,) and (M,) int64. NaN
    where nothing can be told apart: train rows of one class, though test rows have others.
    """
    if not _can_tell(train, labels, test, truth):
        return math.nan
    similarity = F.normalize(test, dim=1) @ F.normalize(train, dim=1).T  # (M, N)
    near = similarity.topk(min(neighbors, len(train)), dim=1)
    votes = torch.zeros(len(test), int(labels.max()) + 1, device=test.device)
    votes.scatter_add_(1, labels[near.indices], near.values + 1)  # + 1: a vote is never negative
    return class_mean_accuracy(votes.argmax(dim=1), truth)


def linear_accuracy(train: Tensor, labels: Tensor, test: Tensor, truth: Tensor, ridge: float = 1e-2) -> float:
    """Return the same of the linear classifier with the least squared error on train rows; no steps, no random start.

    Args:
        train, labels, test, truth: as in `knn_accuracy`.
        ridge: weight of the squared coefficients, as a share of the mean variance of the features times N.
    """
    if len(train) < 2 or not _can_tell(train, labels, test, truth):  # one row has no deviation to be scaled by
        return math.nan
    mean, scale = train.mean(0), train.std(0).clamp(min=1e-6)
    x, x_test = ((rows - mean).double() / scale for rows in (train, test))
    target = F.one_hot(labels).double()
    gram = x.T @ x + ridge * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(gram, x.T @ (target - target.mean(0)))
    return class_mean_accuracy((x_test @ weight + target.mean(0)).argmax(dim=1), truth)


def _can_tell(train: Tensor, labels: Tensor, test: Tensor, truth: Tensor) -> bool:
    is_one_class = bool((labels == labels[0]).all()) and not bool((truth == labels[0]).all())
    return not is_one_class and bool(train.isfinite().all()) and bool(test.isfinite().all())


def class_mean_accuracy(found: Tensor, truth: Tensor) -> float:
    """Return share of right answers for each class, averaged over the classes that occur."""
    right = [(found[truth == label] == label).double().mean() for label in truth.unique()]
    return torch.stack(right).mean().item()


def psnr(restored: Tensor, image: Tensor, where: Tensor) -> float:
    """Return peak signal-to-noise ratio in dB over the voxels `where`, of images in [-1, 1]: the peak is 2."""
    error = (restored.double() - image.double())[where].square().mean().item()
    return 10 * math.log10(4 / max(error, 1e-12))
