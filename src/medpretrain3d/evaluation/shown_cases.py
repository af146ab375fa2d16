"""Cases of an evaluation that are worth a look: found best, found worst, with objects missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NUM_OF_A_KIND = 3


def shown_cases(rows: Sequence[Mapping[str, Any]], num_of_a_kind: int = NUM_OF_A_KIND) -> dict[str, str]:
    """Return why cases are shown, by name: best, worst, and those in which most objects are missed; none twice.

    Args:
        rows: `per_case` of an evaluation.
        num_of_a_kind: at most.
    """
    falling = sorted(rows, key=lambda row: -row["score"])
    missed = sorted(
        (row for row in rows if row["num_hits"] < row["num_targets"]),
        key=lambda row: row["num_hits"] - row["num_targets"],
    )
    reasons: dict[str, str] = {}
    for row in missed[:num_of_a_kind]:
        num_missed = row["num_targets"] - row["num_hits"]
        reasons[row["case"]] = f"missed {num_missed} of {row['num_targets']} objects, score {row['score']:.3f}"
    for kind, chosen in (("worst", falling[::-1]), ("best", falling)):
        new = [row for row in chosen if row["case"] not in reasons][:num_of_a_kind]
        reasons |= {row["case"]: f"{kind}, score {row['score']:.3f}" for row in new}
    order = {kind: place for place, kind in enumerate(("missed", "worst", "best"))}
    return dict(sorted(reasons.items(), key=lambda pair: order[pair[1].split(",")[0].split(" ")[0]]))
