"""Formats of predictions by name. A format is a function that writes the file of all scans or those of one scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from medpretrain3d.inference.prediction import Prediction
from medpretrain3d.registry import Registry

RunWriter = Callable[[Path, Sequence[str], Sequence[Prediction]], None]
"""Writes into a folder, given the names of the classes, what was found in all scans."""
CaseWriter = Callable[[Path, Sequence[str], Prediction], None]
"""Writes into a folder, given the names of the classes, what was found in one scan."""

RUN_WRITERS: Registry[RunWriter] = Registry("prediction format")
CASE_WRITERS: Registry[CaseWriter] = Registry("prediction format")


def formats() -> list[str]:
    """Return every name that `predict --format` takes, those of this package first."""
    names = [*RUN_WRITERS.names(), *CASE_WRITERS.names()]
    return list(dict.fromkeys(names))
