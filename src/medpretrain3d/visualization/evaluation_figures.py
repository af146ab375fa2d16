"""Pictures of an evaluation, each as PNG and SVG: FROC, precision and recall, size, scores, reliability."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medpretrain3d.evaluation.average_precision import RECALL_LEVELS, precision_at_recall
from medpretrain3d.evaluation.bootstrap import Resampling
from medpretrain3d.evaluation.froc import FALSE_POSITIVES_PER_SCAN, froc_curve
from medpretrain3d.evaluation.matching import Matches
from medpretrain3d.visualization.style import COLORS, INK, PALE, STYLE, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_INCHES = (5.0, 3.6)
RATES = tuple(np.geomspace(1 / 8, 8, 193).tolist())


def draw(folder: Path, curves: Mapping[str, Matches], resampling: Resampling, result: Mapping[str, Any]) -> list[str]:
    """Draw everything there is to draw into a folder; returns the names of the pictures.

    Args:
        folder: made where it is missing.
        curves: by name, matches at one threshold each; the first one's scores are drawn as histogram.
        resampling: of the bands.
        result: of the protocol; `size_strata` and `calibration` are drawn where it holds them.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        pictures = {
            "froc": froc_figure(curves, resampling),
            "precision_recall": precision_recall_figure(curves, resampling),
            "scores": score_figure(next(iter(curves.values()))),
        }
        if result.get("size_strata"):
            pictures["size"] = size_figure(result["size_strata"])
        if "calibration" in result:
            pictures["reliability"] = reliability_figure(result["calibration"])
        for name, figure in pictures.items():
            for ending in ("png", "svg"):
                save_figure(figure, folder / f"{name}.{ending}")
    return list(pictures)


def froc_figure(curves: Mapping[str, Matches], resampling: Resampling) -> Figure:
    """Return sensitivity by false positives per scan, with the interval as a band."""
    figure, axes = _figure("FROC")
    for color, (name, matches) in zip(COLORS, curves.items(), strict=False):
        curve, band = _banded(lambda w, m=matches: froc_curve(m, w, RATES)[:, 0], matches, resampling)
        at = froc_curve(matches, np.ones((1, len(matches.num_targets))), FALSE_POSITIVES_PER_SCAN)[0, 0]
        axes.plot(RATES, curve, color=color, linewidth=1.8, label=f"{name}: mean {np.mean(at):.3f}")
        axes.plot(FALSE_POSITIVES_PER_SCAN, at, "o", color=color, markersize=3.5)
        if band is not None:
            axes.fill_between(RATES, band[0], band[1], color=color, alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xlim(1 / 8.4, 8.4)
    axes.set_xticks(FALSE_POSITIVES_PER_SCAN, ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axes.set_xlabel("false positives per scan")
    axes.set_ylabel("sensitivity")
    axes.set_ylim(0, 1.02)
    _legend(axes)
    return figure


def precision_recall_figure(curves: Mapping[str, Matches], resampling: Resampling) -> Figure:
    """Return best precision at each recall or beyond, with the interval as a band; the area is the AP."""
    figure, axes = _figure("Precision and recall, all classes pooled")
    for color, (name, matches) in zip(COLORS, curves.items(), strict=False):
        curve, band = _banded(lambda w, m=matches: precision_at_recall(m, w)[:, 0], matches, resampling)
        shown = np.where(curve > 0, curve, np.nan)  # no line along the axis beyond the last object found
        label = f"{name}: AP {curve.mean():.3f}"
        axes.step(RECALL_LEVELS, shown, where="post", color=color, linewidth=1.8, label=label)
        if band is not None:
            axes.fill_between(RECALL_LEVELS, band[0], band[1], step="post", color=color, alpha=0.15, linewidth=0)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
    _legend(axes)
    return figure


def size_figure(strata: Sequence[Mapping[str, Any]]) -> Figure:
    """Return recall per stratum of the diameter, with intervals."""
    figure, axes = _figure("Recall by size")
    keys = [key for key in strata[0] if key.startswith("recall_IoU_")]
    width = 0.8 / len(keys)
    for place, (color, key) in enumerate(zip(COLORS, keys, strict=False)):
        x = np.arange(len(strata)) + (place - (len(keys) - 1) / 2) * width
        height = np.array([row[key] for row in strata], dtype=float)
        label = f"IoU {float(key.rpartition('_')[2]):g}"
        axes.bar(x, np.nan_to_num(height), width * 0.92, color=color, alpha=0.85, label=label)
        pairs = np.array([row["intervals"].get(key, [math.nan] * 2) for row in strata], dtype=float)
        is_known = ~np.isnan(pairs).any(axis=1) & ~np.isnan(height)
        errors = np.abs(pairs[is_known] - height[is_known, None]).T
        axes.errorbar(x[is_known], height[is_known], errors, fmt="none", ecolor=INK, elinewidth=1, capsize=2.5)
    names = [
        (f"under {row['to_mm']:g}" if not row["from_mm"] else f"{row['from_mm']:g} to {row['to_mm']:g}")
        if row["to_mm"] is not None
        else f"{row['from_mm']:g} and over"
        for row in strata
    ]
    counts = [f"{name}\n{row['num_targets']} objects" for name, row in zip(names, strata, strict=True)]
    axes.set_xticks(np.arange(len(strata)), counts)
    axes.set(xlabel="diameter (mm)", ylabel="recall", ylim=(0, 1.02))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(keys), frameon=False, fontsize=8.5)
    return figure


def score_figure(matches: Matches) -> Figure:
    """Plot the score histograms of hits and of false positives."""
    figure, axes = _figure("Scores")
    bins = np.linspace(0, 1, 21).tolist()
    is_hit = matches.is_hit[0]
    groups = (("hits", is_hit, COLORS[0]), ("false positives", ~is_hit & matches.counts_always, COLORS[1]))
    values = [matches.scores[chosen] for _, chosen, _ in groups]
    axes.hist(
        values,
        bins,
        stacked=True,
        color=[color for *_, color in groups],
        alpha=0.85,
        rwidth=0.92,
        label=[f"{len(value)} {name}" for value, (name, *_) in zip(values, groups, strict=True)],
    )
    # False positives of low score outnumber the rest by orders of magnitude.
    axes.set_yscale("symlog", linthresh=10)
    axes.set_yticks([0, 2, 5, 10, *(10**power for power in range(2, 7) if 10**power <= 2 * len(matches.scores))])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="score", ylabel="detections", xlim=(0, 1))
    _legend(axes, place="upper right")
    return figure


def reliability_figure(calibration: Mapping[str, Any]) -> Figure:
    """Return precision in bins of the score; on the diagonal scores mean what they say."""
    error = calibration["expected_calibration_error"]
    figure, axes = _figure(f"Reliability: expected calibration error {error:.3f}")
    axes.plot([0, 1], [0, 1], color=PALE, linewidth=1.2, zorder=0)
    filled = [one for one in calibration["bins"] if one["num_detections"]]
    x, y = [one["mean_score"] for one in filled], [one["precision"] for one in filled]
    intervals = np.array([one.get("interval", [value] * 2) for one, value in zip(filled, y, strict=True)], dtype=float)
    if filled:
        errors = np.nan_to_num(np.abs(intervals - np.array(y)[:, None])).T
        axes.errorbar(x, y, errors, fmt="o", color=COLORS[0], ecolor=COLORS[0], elinewidth=1, capsize=2.5, markersize=4)
    for one in filled:
        axes.annotate(
            str(one["num_detections"]),
            (one["mean_score"], one["precision"]),
            (6, 3) if one["precision"] < 0.5 else (5, -10),
            textcoords="offset points",
            fontsize=7.5,
        )
    axes.set(xlabel="mean score in the bin", ylabel="share of hits", xlim=(0, 1.02), ylim=(0, 1.02))
    return figure


def _figure(title: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=PALE, linewidth=0.7)
    return figure, axes


def _legend(axes: Axes, place: Literal["best", "upper right"] = "best") -> None:
    axes.legend(loc=place, frameon=False, fontsize=8.5)


def _banded(metric: Any, matches: Matches, resampling: Resampling) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a curve that rests on the patients with objects, and its interval, nan with too few of these."""
    values, intervals = resampling.estimate(
        lambda weights: {"y": metric(weights)}, matches.patients, {"y": matches.num_patients_with_objects}
    )
    return np.array(values["y"]), np.array(intervals["y"]).T if intervals else None
