"""The intensities inside the objects of a data set, by which nnDetection and nnU-Net normalise CT."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.store.intensity import ForegroundZScore
from medpretrain3d.store.statistics import Histogram
from medpretrain3d.store.store import Case, Store


def foreground_normalization(store: Store, split: str = "train") -> ForegroundZScore:
    """Measure the normalisation of a labelled store: percentiles 0.5 and 99.5, mean and standard deviation per channel.

    Over every voxel inside the objects of a split, in boxes where a case has no mask; exact, so that the order of cases
    does not matter. Only training cases may be looked at.

    Raises:
        UserError: the split has no object, or a channel has one value only.
    """
    histograms: list[Histogram] = []
    for case_id in store.splits.get(split, ()):
        case = store.case(case_id)
        histograms = histograms or [Histogram() for _ in range(case.num_channels)]
        for values in _object_voxels(case):
            for histogram, channel in zip(histograms, values, strict=True):
                histogram.add(channel)
    advice = "use a window, as NamedWindow('lung')"
    if not all(histogram.counts.any() for histogram in histograms) or not histograms:
        raise UserError(f"{store.place}: split '{split}' has no object to measure; {advice}")
    found = [histogram.statistics() for histogram in histograms]
    if flat := [channel for channel, one in enumerate(found) if not one.std > 0]:
        raise UserError(
            f"{store.place}: objects of split '{split}' have the one value {found[flat[0]].mean:g} in channel "
            f"{flat[0]}, so no deviation to normalize by; {advice}"
        )
    return ForegroundZScore(
        [one.low for one in found], [one.high for one in found], [one.mean for one in found], [one.std for one in found]
    )


def _object_voxels(case: Case) -> Sequence[np.ndarray]:
    """Return voxels (C, n) int16 of each object, those of its mask where it has one. Overlapping boxes count twice."""
    voxels = []
    for instance, box in zip(case.instance_ids, case.boxes, strict=True):
        low = np.clip(np.floor(box[:3]).astype(int), 0, None)
        high = np.minimum(np.ceil(box[3:]).astype(int), case.grid.shape)
        image = case.read_image(low, high - low)
        inside = np.ones(image.shape[1:], dtype=bool)
        if case.has_mask and instance:
            inside = case.read_instances(low, high - low) == instance
        voxels.append(image[:, inside])
    return voxels
