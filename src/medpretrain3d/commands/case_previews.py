"""Pictures and a page of what was found in scans, with the truth where it is known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import PredictedCase, TargetCase, TargetFile
from medpretrain3d.evaluation.shown_cases import shown_cases

if TYPE_CHECKING:
    from medpretrain3d.inference.inputs import ScanInput
    from medpretrain3d.inference.prediction import Prediction
    from medpretrain3d.inference.voxel_reader import VoxelReader
    from medpretrain3d.store.normalization import Normalization

MOST_BOXES = 40
"""Of a scan, the best; more hide it."""
NUM_PICTURED = 12
"""Of a picture of a scan whose objects nobody knows."""
LEAST_SHOWN = 0.3
"""Score from which boxes are shown where nobody said another."""
MOST_CASES = 100
"""On a page: each takes some 100 kB."""


@dataclass(frozen=True)
class LookedAt:
    """A scan that is shown: why, its voxels, what was found, what there was (None: nobody knows) and its score."""

    why: str
    opened: VoxelReader
    found: PredictedCase
    wanted: TargetCase | None = None
    score: float | None = None


def as_case(prediction: Prediction) -> PredictedCase:
    """Return what was found in a scan, as evaluation knows it."""
    boxes, scores, labels = prediction.boxes_lps_mm, prediction.scores, prediction.labels
    return PredictedCase(prediction.case, boxes, scores.astype(float), labels, prediction.grid, prediction.boxes_vox)


def called(prediction: Prediction) -> str:
    """Return what was found in a scan, in words."""
    best = f", best {prediction.scores.max():.2f}" if len(prediction) else ""
    call = "" if prediction.is_positive is None else f", called {'positive' if prediction.is_positive else 'negative'}"
    return f"{len(prediction)} boxes{best}{call}"


def write_preview(
    folder: Path,
    title: str,
    about: str,
    scans: Iterable[LookedAt],
    classes: Sequence[str],
    window: Normalization | None = None,
    least: float = 0.0,
) -> Path:
    """Write a picture of each scan and one page with all of them; one scan at a time is in memory.

    Args:
        folder: where they go.
        title: heading of the page.
        about: a sentence below it.
        scans: what is shown, in this order.
        classes: names of the labels.
        window: grey values of the pictures; None spans them from the lowest to the highest half percent.
        least: score from which boxes are shown at first; a lower one, which the page says, where none has it.

    Returns:
        Path of the page.

    Raises:
        UserError: a scan cannot be read, or a file cannot be written.
    """
    from medpretrain3d.visualization.box_pictures import boxes_on_slices
    from medpretrain3d.visualization.case_page import write_cases
    from medpretrain3d.visualization.viewed_case import boxes_in, viewed_case

    cases, pictures, scores = [], {}, []
    for one in scans:
        opened, best = one.opened, np.argsort(-one.found.scores, kind="stable")[:MOST_BOXES]
        voxels = opened.read_image((0, 0, 0), opened.grid.shape)
        image = _spanned(voxels[0]) if window is None else window.fitted(opened.statistics)(voxels)[0]
        found = _some(one.found, best)
        scores.append(found.scores)
        cases.append(viewed_case(one.why, image, opened.grid, found, one.wanted, classes, one.score))
        none = np.zeros((0, 6)), np.zeros(0, int)
        truth = none if one.wanted is None else (boxes_in(one.wanted, opened.grid), one.wanted.labels)
        shown = found.scores >= _least_shown(least, [found.scores])
        pictures[found.case] = boxes_on_slices(
            image,
            opened.grid.spacing_mm,
            *truth,
            boxes_in(found, opened.grid)[shown],
            found.scores[shown],
            found.labels[shown],
            classes,
            num_further=3 if one.wanted is not None else NUM_PICTURED,
        )
    shown_from = _least_shown(least, scores)
    if shown_from < least:
        about = f"{about} No box has a score of {least:.2f}: they are shown from {shown_from:.2f} on."
    return write_cases(folder, title, about, cases, pictures, shown_from)


def _least_shown(least: float, scores: Sequence[np.ndarray]) -> float:
    """Return from which score boxes are shown: where no scan has one of `least`, that of the last of each one's best.

    A detector that learned for a short while gives low scores; its boxes are still what the page is opened for.
    """
    best = [np.sort(one)[::-1][:NUM_PICTURED] for one in scores if len(one)]
    if not best or any(one[0] >= least for one in best):
        return least
    return math.floor(100 * min(float(one[-1]) for one in best)) / 100


def _spanned(voxels: np.ndarray) -> np.ndarray:
    low, high = np.percentile(voxels[::2, ::2, ::2], (0.5, 99.5))
    image: np.ndarray = np.clip((voxels.astype(np.float32) - low) / max(float(high - low), 1e-6) * 2 - 1, -1, 1)
    return image


def write_shown_cases(
    folder: Path,
    paths: Sequence[Path],
    rows: Sequence[Mapping[str, Any]],
    found: Sequence[PredictedCase],
    targets: TargetFile,
) -> Path:
    """Write the page of the cases of an evaluation that are worth a look.

    Args:
        folder: where it goes.
        paths: where the scans are.
        rows: `per_case` of the result.
        found: in the order of the targets.
        targets: what was to be found.

    Returns:
        Path of the page.

    Raises:
        UserError: no scan of a case that is shown, or one that cannot be read.
    """
    from medpretrain3d.inference.inputs import find_scans

    known = {scan.case: scan for scan in find_scans(paths)}
    reasons = shown_cases(rows)
    missing = [case for case in reasons if case not in known]
    if missing:
        raise UserError(f"--scans: no scan of case '{missing[0]}'; name where the scans of the predictions are")
    of_case = {one.case: (one, wanted) for one, wanted in zip(found, targets.cases, strict=True)}
    scores = {str(row["case"]): float(row["score"]) for row in rows}
    looked_at = (
        LookedAt(why, _opened(known[case]), *of_case[case], score=scores[case]) for case, why in reasons.items()
    )
    title = f"{len(reasons)} of {len(rows)} cases: missed, worst and best"
    about = "The score of a case is its average precision; of a scan without objects, 1 minus its highest score."
    return write_preview(folder, title, about, looked_at, targets.classes, least=LEAST_SHOWN)


def _opened(scan: ScanInput) -> VoxelReader:
    """Return the voxels of a scan in HU, or as they are where they are none."""
    try:
        return scan.open("hu")
    except UserError:
        return scan.open("any")


def _some(found: PredictedCase, rows: np.ndarray) -> PredictedCase:
    boxes_vox = None if found.boxes_vox is None else found.boxes_vox[rows]
    return PredictedCase(found.case, found.boxes[rows], found.scores[rows], found.labels[rows], found.grid, boxes_vox)
