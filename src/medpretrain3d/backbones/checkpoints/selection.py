"""The tensors of a foreign state dict that are an encoder's, and the count of those that are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from typing import Any

from torch import Tensor


def select(
    weights: Mapping[str, Tensor], prefix: str, parts: Container[str]
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Split a state dict by where its names begin.

    Args:
        weights: the whole state dict.
        prefix: before the encoder's names, with its dot; may be empty.
        parts: the first component of the encoder's names behind the prefix, such as `layer1`.

    Returns:
        The encoder's tensors without the prefix, and how many tensors each other part has.
    """
    own, unused = {}, Counter[str]()
    for name, tensor in weights.items():
        first, *_ = name.removeprefix(prefix).split(".")
        if name.startswith(prefix) and first in parts:
            own[name.removeprefix(prefix)] = tensor
        else:
            unused[first] += 1
    return own, dict(unused)


def window(low_hu: float, high_hu: float) -> dict[str, Any]:
    """Return the config of the window that a publication states, as the card of an encoder file holds it."""
    return {
        "class_path": "medpretrain3d.store.intensity.Window",
        "init_args": {"low_hu": low_hu, "high_hu": high_hu},
    }


def unit_window(low_hu: float, high_hu: float) -> dict[str, Any]:
    """Return the config of a window whose range becomes [0, 1], as MONAI's `ScaleIntensityRange` is mostly used."""
    return {
        "class_path": "medpretrain3d.store.intensity.Window",
        "init_args": {"low_hu": low_hu, "high_hu": high_hu, "output_range": [0.0, 1.0]},
    }


RAS_AXES = (
    "trained on volumes with axes (right, anterior, superior), where this package has (superior, posterior, left): "
    "kernels see turned anatomy until fine-tuned"
)
