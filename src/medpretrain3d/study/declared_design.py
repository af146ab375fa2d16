"""What a study's document was to run when it was declared: data sets, arms, budgets, seeds and folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from medpretrain3d.study.design import Study

NOUNS = {
    "data": "data sets",
    "detectors": "detectors",
    "arms": "arms",
    "labels": "label budgets",
    "steps": "shares of the steps",
    "seeds": "seeds",
    "encoders": "encoders per arm",
    "folds": "folds",
}
"""What a report calls the parts of a design."""


@dataclass(frozen=True)
class DeclaredDesign:
    """What was to be run, by names, and when that was written down."""

    date: datetime
    parts: Mapping[str, Sequence[str]]
    """Names by the keys of `NOUNS`."""


def design_parts(study: Study) -> dict[str, list[str]]:
    """Return what a study's document is to run, by the keys of `NOUNS`."""
    folds = ["named splits"] if study.folds is None else ["all"] if study.folds == "all" else map(str, study.folds)
    return {
        "data": list(study.data),
        "detectors": [one.name for one in study.detectors],
        "arms": [one.name for one in study.arms],
        "labels": [one.name for one in study.labels],
        "steps": [f"{share:g}" for share in study.steps],
        "seeds": [str(seed) for seed in study.seeds],
        "encoders": [str(study.num_encoders)],
        "folds": list(folds),
    }


def design_note(designs: Sequence[DeclaredDesign], first_result: datetime, now: Mapping[str, Sequence[str]]) -> str:
    """Return the sentence of a report: whether what is run is what was to be run before there were results.

    Args:
        designs: every one that was written down, in the order in which they were.
        first_result: when the first number of a test was written.
        now: parts of the design of this report, see `design_parts`.
    """
    before = [one for one in designs if one.date <= first_result]
    if not before:
        return "Nothing says which arms, data sets and seeds the study began with."
    then = before[-1].parts
    changes = [
        f"{noun} {change}" for key, noun in NOUNS.items() for change in _changes(then.get(key, []), now.get(key, []))
    ]
    if not changes:
        return "Arms, data sets, label budgets, seeds and folds are those that were to be run then."
    said = f"What is run was CHANGED after the first result: {'; '.join(changes)}."
    if set(then.get("seeds", [])) != set(now.get("seeds", [])):
        said += " Seeds chosen once results are known are a second look, for which no interval is corrected."
    return said


def _changes(then: Sequence[str], now: Sequence[str]) -> list[str]:
    added, removed = [one for one in now if one not in then], [one for one in then if one not in now]
    return [f"{what} {', '.join(names)}" for what, names in (("added", added), ("left out", removed)) if names]
