"""Hypotheses, primary metric and delta, declared before the results: a hash with a date."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Registration:
    """What was declared, as a hash, and when."""

    sha256: str
    date: datetime


def declaration_sha256(hypotheses: Sequence[str], primary: Mapping[str, Any], delta: float | None) -> str:
    """Return the hash of what a document declares; order and spaces of its lines do not matter."""
    declared = {
        "hypotheses": sorted(" ".join(str(one).split()) for one in hypotheses),
        "primary": {str(key): primary[key] for key in sorted(primary)},
        "delta": None if delta is None else float(delta),
    }
    return hashlib.sha256(json.dumps(declared, sort_keys=True).encode()).hexdigest()


def declared_before(registrations: Sequence[Registration], first_result: datetime | None) -> bool:
    """Return whether nothing was declared anew after results existed: the last change is older than the first result.

    Args:
        registrations: every declaration that ever stood in the document, also one that came back to an earlier hash.
        first_result: when the first number of a test was written; None for not yet.
    """
    return first_result is None or all(one.date <= first_result for one in registrations)


def registration_note(registrations: Sequence[Registration], first_result: datetime | None) -> str:
    """Return the sentence about it that stands in a report.

    Raises:
        ValueError: there is no registration.
    """
    if not registrations:
        raise ValueError("no registration; record the declaration of the document first")
    ordered = sorted(registrations, key=lambda one: one.date)
    last = ordered[-1]
    named = (
        f"hypotheses, primary metric and delta (sha256 {last.sha256[:12]}) were declared on {last.date:%Y-%m-%d %H:%M}"
    )
    if first_result is None:
        return f"{named}, before any result."
    when = f"{first_result:%Y-%m-%d %H:%M}"
    if declared_before(ordered, first_result):
        return f"{named}, before the first result of {when}."
    late = sum(one.date > first_result for one in ordered)
    if late == len(ordered):
        return f"{named}, AFTER the first result of {when}: nothing here was declared beforehand; all is exploratory."
    return (
        f"{named}, CHANGED {late} time{'s' if late > 1 else ''} after the first result of {when}; all is exploratory."
    )
