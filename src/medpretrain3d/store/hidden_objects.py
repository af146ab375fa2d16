"""Objects that overlap in one mask: which of them it shows so that an end of theirs is not where it seems to be."""

from __future__ import annotations

import numpy as np

PARTLY_HIDDEN = "partly_hidden"
"""Key of a case's sidecar: ids of objects of which others hide so much in the mask that it does not show their ends."""
OVERLAPPING = "objects that overlap smaller ones, which hold what they share in the mask"
"""What `prepare` says of a case with such objects."""


def hides_an_end(seen: np.ndarray, whole: np.ndarray) -> bool:
    """Return whether some slice of an object, along any axis, begins or ends elsewhere in what is seen of it.

    That the hull of all slices is the same would not do, since crops cut it.

    Args:
        seen: (d, h, w) bool, the object's voxels in a mask.
        whole: (d, h, w) bool, all of its voxels.
    """
    silhouettes = [(np.asarray(seen.any(axis=axis)), np.asarray(whole.any(axis=axis))) for axis in range(3)]
    return any(
        not np.array_equal(_ends(ours, along), _ends(all_, along)) for ours, all_ in silhouettes for along in (0, 1)
    )


def _ends(silhouette: np.ndarray, along: int) -> np.ndarray:
    """Return of each line (L,) of a silhouette whether it is empty, its first and its last pixel: (3, L)."""
    size = silhouette.shape[along]
    last = size - 1 - np.flip(silhouette, along).argmax(axis=along)
    return np.stack([silhouette.any(axis=along), silhouette.argmax(axis=along), last])
