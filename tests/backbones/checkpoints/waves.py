"""Numbers of `tests/fixtures/released`, that every machine computes alike; see the README there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.oracles import FIXTURES


def released_fixture(name: str) -> Any:
    """The document `tests/fixtures/released/<name>.json`."""
    return json.loads((FIXTURES / "released" / f"{name}.json").read_text(encoding="utf-8"))


def wave(shape: Sequence[int], phase: float) -> Tensor:
    """A sine over the flat index."""
    count = int(np.prod(shape))
    return torch.from_numpy((0.2 * np.sin(np.arange(count) * 0.7 + phase)).astype(np.float32)).reshape(tuple(shape))


def waves(shapes: dict[str, Sequence[int]]) -> dict[str, Tensor]:
    """The weights of a network, from the shapes of its tensors."""
    weights = {}
    for phase, name in enumerate(sorted(shapes)):
        is_scale = "norm" in name and name.endswith("weight")
        weights[name] = wave(shapes[name], phase) + (1.0 if is_scale else 0.0)
    return weights
