"""Pictures of a report, and their embedding inside one file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from medpretrain3d.study.run import Run


@dataclass(frozen=True)
class Picture:
    """An inline picture and what it says underneath."""

    uri: str
    caption: str


@dataclass(frozen=True)
class Comparison:
    """Pictures to be seen side by side."""

    title: str
    pictures: list[Picture]


def reconstruction_previews(runs: Sequence[Run]) -> list[Comparison]:
    """Return first and last preview of each pretraining run."""
    shown = []
    for run in runs:
        previews = run.previews
        ends = dict.fromkeys([previews[0], previews[-1]]) if previews else {}
        pictures = [Picture(data_uri(path), f"step {step:,}") for step, path in ends]
        if pictures:
            shown.append(Comparison(run.name, pictures))
    return shown


def example_cases(runs: Sequence[Run]) -> dict[str, str]:
    """Test cases worth a look, by why: found best, found worst, and where the runs differ most.

    Judged by the mean score over the runs; only cases that every run has a picture of.
    """
    shared = [
        case
        for case in (runs[0].case_scores if runs else {})
        if all(case in run.case_scores and case in run.pictures for run in runs)
    ]
    if not shared:
        return {}
    scores = {case: [run.case_scores[case] for run in runs] for case in shared}
    mean = {case: sum(values) / len(values) for case, values in scores.items()}
    spread = {case: max(values) - min(values) for case, values in scores.items()}
    reasons = {
        max(shared, key=mean.__getitem__): "found best",
        min(shared, key=mean.__getitem__): "found worst",
    }
    widest = max(shared, key=spread.__getitem__)
    if len(runs) > 1 and spread[widest] > 0:
        reasons.setdefault(widest, "where the arms differ most")
    return reasons


def data_uri(path: Path) -> str:
    """Return the picture as a `data:` address, as WebP where that is smaller; empty if the file is no picture."""
    try:
        png = path.read_bytes()
        webp = io.BytesIO()
        # Quality 85 is a quarter of the PNG on CT slices, and the letters stay sharp.
        Image.open(io.BytesIO(png)).convert("RGB").save(webp, "WEBP", quality=85, method=4)
    except (OSError, UnidentifiedImageError):
        return ""
    kind, data = ("webp", webp.getvalue()) if webp.tell() < len(png) else ("png", png)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
