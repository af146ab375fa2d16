"""The plots of a plan's page."""

from __future__ import annotations

import numpy as np

from medpretrain3d.planning import Plan
from medpretrain3d.planning.fingerprint import Fingerprint
from medpretrain3d.visualization.axes import Axis
from medpretrain3d.visualization.strip_plot import StripRow, mm_axis, strip_plot

MAX_ROWS = 24
"""Classes that are drawn, those with most objects; the table has all."""
AXES = ("D, slices", "H", "W")


def size_figure(fingerprint: Fingerprint) -> str:
    """Return the longest edge of every object, a row per class; empty where there is none."""
    rows = [
        StripRow(name, fingerprint.objects.edges_mm(label).tolist()) for label, name in enumerate(fingerprint.classes)
    ]
    rows = [row for row in rows if row.values]
    if len(rows) > MAX_ROWS:
        most = sorted(rows, key=lambda row: -len(row.values))[:MAX_ROWS]
        rows = [row for row in rows if row in most]
    if not rows:
        return ""
    return strip_plot(rows, mm_axis("longest edge in mm", [value for row in rows for value in row.values]))


def spacing_figure(fingerprint: Fingerprint, plan: Plan) -> str:
    """Return the spacing of every scan along each axis, with the planned one as a mark."""
    rows = [
        StripRow(name, fingerprint.spacings_mm[:, axis].tolist(), plan.spacing_mm[axis])
        for axis, name in enumerate(AXES)
    ]
    return strip_plot(rows, mm_axis("spacing in mm", [*fingerprint.spacings_mm.ravel().tolist(), *plan.spacing_mm]))


def intensity_figure(fingerprint: Fingerprint) -> str:
    """Return percentile 0.5, mean and percentile 99.5 of the voxels of every scan, for each channel."""
    names = ("percentile 0.5", "mean", "percentile 99.5")
    channels = fingerprint.channel_names
    rows = [
        StripRow(
            f"{channel}: {name}" if len(channels) > 1 else name, fingerprint.intensities[:, number, place].tolist()
        )
        for number, channel in enumerate(channels)
        for place, name in enumerate(names)
    ]
    unit = "HU" if fingerprint.unit == "hu" else "stored values"
    values = np.concatenate([row.values for row in rows])
    return strip_plot(
        rows, Axis(f"voxels above what surrounds the patient, {unit}", float(values.min()), float(values.max()))
    )
