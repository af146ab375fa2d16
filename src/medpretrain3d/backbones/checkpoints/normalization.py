"""Normalization as nnU-Net's plans name it, described in this package's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medpretrain3d.configurable import Config

INTENSITY = "medpretrain3d.store.intensity."


def normalization(schemes: Sequence[str] | None, intensities: Mapping[str, Any] | None = None) -> Config | None:
    """Return the `data.window` that normalizes intensities as in pretraining; None where the plan does not tell.

    `CTNormalization` cuts at percentiles of the foreground and divides by its deviation: the same numbers here.
    `ZScoreNormalization` takes mean and deviation over all voxels of a volume: the same here.

    Args:
        schemes: one name per channel.
        intensities: `foreground_intensity_properties_per_channel` of the plan, by channel number.
    """
    names = set(schemes or ())
    if names == {"ZScoreNormalization"}:
        return {"class_path": INTENSITY + "ZScore", "init_args": {"voxels": "all"}}
    channels = [(intensities or {}).get(str(number)) for number in range(len(schemes or ()))]
    if names == {"CTNormalization"} and all(channels):
        keys = {"low": "percentile_00_5", "high": "percentile_99_5", "mean": "mean", "std": "std"}
        numbers = {ours: [float(one[theirs]) for one in channels if one] for ours, theirs in keys.items()}
        return {"class_path": INTENSITY + "ForegroundZScore", "init_args": numbers}
    return None
