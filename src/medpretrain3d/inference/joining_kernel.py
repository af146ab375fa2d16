"""The search of `joining` over all pieces, compiled by numba when first used."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from medpretrain3d.compiled import compiled


@compiled(
    "(int64, int64[::1], int64, boolean, float64[:, ::1], float64[:, ::1], float64[::1], boolean[:, ::1], boolean[::1],"
    " float64, float64, float64)"
)
def best_continuation(
    first: int,
    candidates: NDArray[Any],
    axis: int,
    upwards: bool,
    box: NDArray[Any],
    face: NDArray[Any],
    score: NDArray[Any],
    touches: NDArray[Any],
    is_alive: NDArray[Any],
    slack: float,
    min_section_iou: float,
    min_score_ratio: float,
) -> int:
    """Return index of the piece that continues `first` best along an axis, the first of equals; -1 if none does."""
    own, other, sign = (axis + 3, axis, 1.0) if upwards else (axis, axis + 3, -1.0)
    best, best_fit = -1, 0.0
    for c in candidates:
        if c == first or not is_alive[c] or not touches[c, other]:
            continue
        if sign * (face[first, own] - face[c, other]) < 0 or not sign * (face[c, own] - face[first, own]) > 0:
            continue  # the tiles do not meet, or the other one's does not lie further on
        if sign * (box[c, own] - face[first, own]) < -slack or not sign * (box[c, own] - box[first, own]) > 0:
            continue  # the other does not hold this one's end of the tile, or does not go on
        if sign * (face[c, other] - box[first, other]) < -slack:
            continue  # this one began within the other one's tile, which would have seen its beginning
        low_score, high_score = min(score[c], score[first]), max(score[c], score[first])
        if low_score < min_score_ratio * high_score or high_score <= 0:
            continue
        both, one, theirs = 1.0, 1.0, 1.0
        for edge in range(3):
            if edge != axis:
                shared = min(box[c, edge + 3], box[first, edge + 3]) - max(box[c, edge], box[first, edge])
                both *= max(shared, 0.0)
                one *= box[first, edge + 3] - box[first, edge]
                theirs *= box[c, edge + 3] - box[c, edge]
        if both <= 0 or both < min_section_iou * (one + theirs - both):
            continue
        fit = both / (one + theirs - both) * low_score / high_score
        if fit > best_fit:
            best, best_fit = c, fit
    return best
