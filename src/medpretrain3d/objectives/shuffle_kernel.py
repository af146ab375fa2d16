"""The compiled loop of `distortions.local_shuffle`."""

from __future__ import annotations

from typing import Any

import numpy as np

from medpretrain3d.compiled import compiled, inlined

_compiled = compiled("(int64[:, ::1], int64[:, ::1], uint64[::1], int64[::1])")
_inlined = inlined()


@_inlined
def _mixed(x: Any) -> Any:
    """Return SplitMix64's finaliser, as in `masking`, on unsigned numbers."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@_compiled
def shuffled_index(corners: Any, edges: Any, keys: Any, patch: Any) -> Any:
    """Compute the source index of each voxel after every block, in turn, has permuted its voxels (Fisher and Yates).

    `corners` and `edges` are (N, 3) int64, `keys` (N,) uint64, one per block, `patch` (3,) int64. Returns (D * H * W,)
    int64; where blocks overlap, the last one decides.
    """
    index = np.arange(patch[0] * patch[1] * patch[2])
    voxels = np.empty(patch[0] * patch[1] * patch[2], np.int64)
    for block in range(len(corners)):
        count = 0
        for d in range(corners[block, 0], corners[block, 0] + edges[block, 0]):
            for h in range(corners[block, 1], corners[block, 1] + edges[block, 1]):
                for w in range(corners[block, 2], corners[block, 2] + edges[block, 2]):
                    place = (d * patch[1] + h) * patch[2] + w
                    # The permutation grows with the voxels: each new one changes places with one of those before it.
                    random = _mixed(keys[block] + np.uint64(count) * np.uint64(0x9E3779B97F4A7C15))
                    other = np.int64(random % np.uint64(count + 1))
                    voxels[count] = voxels[other]
                    voxels[other] = place
                    count += 1
        count = 0
        for d in range(corners[block, 0], corners[block, 0] + edges[block, 0]):
            for h in range(corners[block, 1], corners[block, 1] + edges[block, 1]):
                for w in range(corners[block, 2], corners[block, 2] + edges[block, 2]):
                    index[(d * patch[1] + h) * patch[2] + w] = voxels[count]
                    count += 1
    return index
