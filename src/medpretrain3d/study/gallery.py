"""Pictures of a report, and their embedding inside one file."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from medpretrain3d.study.conditions import Condition
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


def telling_cases(
    conditions: Sequence[Condition], is_shown: Callable[[Run, str], bool]
) -> dict[str, tuple[str, list[Run]]]:
    """Return test cases worth a look, by why: found best, found worst, and where the arms differ most.

    Args:
        conditions: the arms of one place.
        is_shown: whether there is a picture of a case of a run.

    Returns:
        Why, and of each arm the run of its first seed that was tested on the case; judged by their mean score.
    """
    of_arms: list[dict[str, Run]] = []
    for one in conditions:
        tested: dict[str, Run] = {}
        for run in sorted(one.runs, key=lambda run: run.metadata.seed or 0, reverse=True):
            tested |= dict.fromkeys((case for case in run.case_scores if is_shown(run, case)), run)
        of_arms.append(tested)
    shared = [case for case in (of_arms[0] if of_arms else {}) if all(case in tested for tested in of_arms)]
    if not shared:
        return {}
    scores = {case: [tested[case].case_scores[case] for tested in of_arms] for case in shared}
    mean = {case: sum(values) / len(values) for case, values in scores.items()}
    spread = {case: max(values) - min(values) for case, values in scores.items()}
    reasons = {
        max(shared, key=mean.__getitem__): "found best",
        min(shared, key=mean.__getitem__): "found worst",
    }
    widest = max(shared, key=spread.__getitem__)
    if len(of_arms) > 1 and spread[widest] > 0:
        reasons.setdefault(widest, "where the arms differ most")
    return {case: (why, [tested[case] for tested in of_arms]) for case, why in reasons.items()}


def case_pictures(conditions: Sequence[Condition]) -> list[Comparison]:
    """Return the pictures that the runs of one place drew of these cases, those that all have one of."""
    shown = []
    pictures_of = {run: run.pictures for one in conditions for run in one.runs}
    for case, (why, runs) in telling_cases(conditions, lambda run, case: case in pictures_of[run]).items():
        pictures = [
            Picture(data_uri(pictures_of[run][case]), f"{one.arm}: score {run.case_scores[case]:.3f}")
            for one, run in zip(conditions, runs, strict=True)
        ]
        shown.append(Comparison(f"{conditions[0].place}: case {case}, {why}", pictures))
    return shown


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
