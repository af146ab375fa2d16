"""Outcomes that are kept, so that a comparison that was interrupted goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.same_minutes.contestants import Outcome
from benchmarks.same_minutes.marks import Mark
from benchmarks.same_minutes.scoring import Score
from medpretrain3d.atomic import write_text
from medpretrain3d.documents import json_text
from medpretrain3d.engine.run import git_sha


def kept(folder: Path, run: Callable[[], Outcome], /, **what: Any) -> Outcome:
    """Return the outcome in a folder where it is one of this commit and of the same run, else make it.

    Args:
        folder: of the run.
        run: makes the outcome.
        what: all that tells one run from another.
    """
    file = folder / "outcome.json"
    identity = json.loads(json.dumps({"commit": git_sha(), **what}, default=str))
    if file.is_file():
        document = json.loads(file.read_text("utf-8"))
        if document["identity"] == identity:
            return _outcome(document["outcome"])
    outcome = run()
    write_text(file, json_text({"identity": identity, "outcome": asdict(outcome)}))
    return outcome


def _outcome(document: dict[str, Any]) -> Outcome:
    marks = [Mark(**mark) for mark in document["marks"]]
    scores = [Score(**one) for one in document["scores"]]
    return Outcome(**{**document, "marks": marks, "scores": scores})
