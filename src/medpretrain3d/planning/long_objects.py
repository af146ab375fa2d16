"""Objects that do not fit into a patch, or fit into it only where tiles happen to lie well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medpretrain3d.planning.topology import Triple

AXES = ("D", "H", "W")
SHOWN = 3
"""Classes that are named."""


@dataclass(frozen=True)
class LongObjects:
    """Counts of training objects that are too long for a patch.

    One longer than the patch along an axis is whole in no crop and in no tile: training shows parts of it, and a
    prediction is joined from pieces. One longer than half of it is whole in some crops; where tiles overlap by half it
    may lie so that every tile cuts it. Along an axis on which the patch spans the scan there is one tile, and no object
    is cut.

    Args:
        extents_vox: (N, 3) of the objects, at the spacing of the patch.
        labels: (N,) index into the classes.
        classes: names.
        patch: (D, H, W) voxels.
        scans_vox: (N, 3) size of the scan of each object; None where all are larger than the patch.

    Example:
        >>> import numpy as np
        >>> from medpretrain3d.planning import LongObjects
        >>> extents = np.array([[8.0, 8, 8], [20, 8, 8], [40, 8, 8]])
        >>> found = LongObjects(extents, np.zeros(3, int), ["rib"], (32, 32, 32))
        >>> found.num_longer_than_patch, found.num_longer_than_half
        (1, 2)
    """

    extents_vox: np.ndarray
    labels: np.ndarray
    classes: Sequence[str]
    patch: Triple
    scans_vox: np.ndarray | None = None

    @property
    def num_longer_than_patch(self) -> int:
        """Objects longer than the patch along any axis."""
        return int(self._exceeds(1.0).any(axis=1).sum())

    @property
    def num_longer_than_half(self) -> int:
        """Objects longer than half of the patch along any axis, the former among them."""
        return int(self._exceeds(0.5).any(axis=1).sum())

    def note(self) -> str:
        """One line with numbers and what to do; empty where every object is at most half as long as the patch."""
        if not self.num_longer_than_half:
            return ""
        whole, num = self.num_longer_than_patch, len(self.extents_vox)
        share = 1.0 if whole else 0.5
        size = " x ".join(map(str, self.patch))
        never_whole = f"{whole} ({whole / num:.0%}) are longer than all of it and never seen whole"
        message = (
            f"{self.num_longer_than_half} of {num} training objects ({self.num_longer_than_half / num:.0%}) are longer "
            f"than half of the patch of {size} voxels, so that tiles may cut them and pieces have to be joined; "
            f"{never_whole if whole else 'none is longer than all of it'}: {self._along(share)}"
            f"{self._of_classes(share)}"
        )
        axes = np.flatnonzero(self._exceeds(share).any(axis=0))
        longest = np.ceil(self._longest(share) - 1e-6).astype(int)
        wanted = ", ".join(f"{longest[axis] if whole else 2 * longest[axis]} along {AXES[axis]}" for axis in axes)
        return f"{message}; take a larger patch ({wanted} holds them all) or a coarser spacing"

    def _exceeds(self, share: float) -> np.ndarray:
        """Return (N, 3) whether an object is longer than a share of the patch and may be cut; rounding aside."""
        is_long = np.asarray(self.extents_vox > share * np.array(self.patch) + 1e-3)
        return is_long if self.scans_vox is None else is_long & (self.scans_vox > np.array(self.patch) + 1e-3)

    def _longest(self, share: float) -> np.ndarray:
        """Return the longest of those along each axis (3,), 0 where there is none."""
        longest: np.ndarray = np.where(self._exceeds(share), self.extents_vox, 0.0).max(axis=0)
        return longest

    def _along(self, share: float) -> str:
        along = zip(AXES, self._exceeds(share).sum(axis=0), self._longest(share), strict=True)
        return ", ".join(f"{count} along {axis} (longest {longest:.0f})" for axis, count, longest in along if count)

    def _of_classes(self, share: float) -> str:
        if len(self.classes) < 2:
            return ""
        is_long = np.asarray(self._exceeds(share).any(axis=1))
        counts = [
            (int(is_long[self.labels == label].sum()), int((self.labels == label).sum()), name)
            for label, name in enumerate(self.classes)
        ]
        worst = sorted((one for one in counts if one[0]), key=lambda one: -one[0])
        shown = ", ".join(f"{count} of {total} of '{name}'" for count, total, name in worst[:SHOWN])
        return f"; {shown}" + (f" and {len(worst) - SHOWN} more classes" if len(worst) > SHOWN else "")
