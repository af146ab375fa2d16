"""Weightings of the scans, a few at a time: what is counted under each of them has a number per detection."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 2**22
"""Numbers of an array in a block, weightings times detections: 32 MB. 200 weightings of 10,000 scans with 100
detections each would need 1.6 GB per temporary."""


def blocks(weights: np.ndarray, num_detections: int) -> Iterator[np.ndarray]:
    """Yield the weightings (R, S) in order, as many at a time as `BLOCK` has room for, but at least one."""
    rows = max(1, BLOCK // max(1, num_detections))
    for start in range(0, max(1, len(weights)), rows):
        yield weights[start : start + rows]
