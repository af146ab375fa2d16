"""The table: a row for each run."""

from __future__ import annotations

from benchmarks.same_minutes.contestants import Outcome

COLUMNS = (
    *("detector", "seed", "mAP", "AP50", "mAP at each quarter", "minutes", "by the clock", "steps"),
    *("minutes to our final mAP", "memory, MB", "seconds per scan", "parameters, M"),
)
HEADER = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


def row(outcome: Outcome, wanted: float) -> str:
    """Return the row of a run.

    Args:
        outcome: the run.
        wanted: mAP that ours ended with from this seed.
    """
    if not outcome.scores:
        return f"| {outcome.name} | {outcome.seed} | diverged |{' |' * (len(COLUMNS) - 3)}"
    mark, last, reached = outcome.marks[-1], outcome.scores[-1], outcome.minutes_to(wanted)
    cells = (
        outcome.name,
        str(outcome.seed),
        f"{last.map:.3f}",
        f"{last.ap50:.3f}",
        " ".join(f"{score.map:.3f}" for score in outcome.scores),
        f"{mark.minutes:.2f}",
        f"{mark.clock_minutes:.2f}",
        str(mark.step),
        "not reached" if reached is None else f"{reached:.2f}",
        f"{mark.peak_mb:,.0f}",
        f"{last.seconds_per_scan:.2f}",
        f"{outcome.num_parameters / 1e6:.1f}",
    )
    return f"| {' | '.join(cells)} |"
