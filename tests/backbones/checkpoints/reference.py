"""Features that another implementation computed from the checkpoints in `tests/fixtures`."""

from __future__ import annotations

import json

import numpy as np
import torch
from torch import Tensor

from tests.oracles import FIXTURES


def reference_image(shape: tuple[int, int, int], channels: int = 1) -> Tensor:
    """The image behind the reference, the same in every channel; see the README of the fixtures."""
    i, j, k = np.meshgrid(*(np.arange(size, dtype=np.float64) for size in shape), indexing="ij")
    image = np.sin(0.37 * i + 0.11) + np.cos(0.299 * j) * np.sin(0.19 * k + 0.5) + 0.01 * (i - k)
    return torch.from_numpy(image.astype(np.float32)).repeat(1, channels, 1, 1, 1)


def assert_reference_features(features: list[Tensor], key: str, tolerance: float) -> None:
    """Sums, norm and five single values of every stage, each within `tolerance` of the size of what is compared."""
    expected = json.loads((FIXTURES / "nnssl_checkpoints" / "reference.json").read_text(encoding="utf-8"))["features"]
    stages = [name for name in expected if name.rpartition("/")[0] == key]
    assert len(stages) == len(features)
    for index, feature in enumerate(features):
        stage, flat = expected[f"{key}/{index}"], feature.double().flatten()
        assert list(feature.shape) == stage["shape"]
        assert abs(flat.sum().item() - stage["sum"]) <= tolerance * stage["abssum"]
        assert abs(flat.abs().sum().item() - stage["abssum"]) <= tolerance * stage["abssum"]
        assert abs(flat.norm().item() - stage["l2"]) <= tolerance * stage["l2"]
        probe = flat[np.linspace(0, flat.numel() - 1, 5).astype(int)]
        # Written with six decimals.
        scale = flat.abs().max().item()
        assert (probe - torch.tensor(stage["probe"], dtype=torch.float64)).abs().max() <= tolerance * scale + 5e-7
