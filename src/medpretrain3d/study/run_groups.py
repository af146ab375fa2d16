"""Runs that are drawn beside each other, and in which color."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medpretrain3d.study.conditions import Place, detector_of, place_of
from medpretrain3d.study.run import Run


def runs_by_place(runs: Sequence[Run]) -> dict[Place, list[Run]]:
    """Return runs that are plotted beside each other, tested or not."""
    has_detectors = len({detector_of(run) for run in runs}) > 1
    groups: dict[Place, list[Run]] = {}
    for run in runs:
        groups.setdefault(place_of(run, has_detectors), []).append(run)
    return groups


def runs_by_method(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return runs whose losses are numbers of one kind, which can be seen on one axis."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.method, []).append(run)
    return groups


def arm_colors(finetuning: Sequence[Run], pretraining: Sequence[Run], arms: Mapping[Run, str]) -> dict[Run, int]:
    """Return the place of each run's color; a run of pretraining has that of the runs that grew from it."""
    names = list(dict.fromkeys(arms.values()))
    names.sort(key=lambda name: not name.startswith("scratch"))
    colors = {run: names.index(arms[run]) for run in finetuning}
    grown = {run.method: colors[run] for run in finetuning}
    grown |= {str(run.metadata.pretrain_run): colors[run] for run in finetuning}
    return colors | {
        run: grown.get(run.name, grown.get(run.method, len(names) + place)) for place, run in enumerate(pretraining)
    }
