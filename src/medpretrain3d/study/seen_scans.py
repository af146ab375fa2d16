"""Notes on how many scans of the test were seen without labels or in pretraining, for a reader of a report."""

from __future__ import annotations

from collections.abc import Sequence

from medpretrain3d.study.run import Run


def seen_notes(runs: Sequence[Run]) -> list[str]:
    """Return a line for each run that saw more scans than its own; runs of which the same holds share one.

    Those are runs that started from pretrained weights, or learned from scans without labels.
    """
    message: dict[str, list[str]] = {}
    for run in runs:
        if run.metadata.checkpoint_sha256 or run.metadata.num_unlabeled_volumes:
            message.setdefault(_in_words(run), []).append(run.name)
    return [f"{some_names(names)}: {words}" for words, names in message.items()]


def some_names(names: Sequence[str], limit: int = 4) -> str:
    """Return names of runs for a note: all of a few, else the first and how many more."""
    if len(names) <= limit:
        return ", ".join(names)
    return f"{', '.join(names[: limit - 1])} and {len(names) - limit + 1} more"


def _in_words(run: Run) -> str:
    own = run.metadata
    counts = (own.num_test_cases_seen, own.num_val_cases_seen)
    if counts == (None, None):
        return "it is not known how many test and validation scans the pretraining saw; its weights do not list them."
    least = "at least " if own.is_pretraining_data_known is False else ""
    parts = [
        f"{least}{count or 0} of {'?' if total is None else total} {name} scans"
        for count, total, name in zip(
            counts, (own.num_test_cases, own.num_val_cases), ("test", "validation"), strict=True
        )
    ]
    labeled = [own.num_test_cases_seen_with_labels or 0, own.num_val_cases_seen_with_labels or 0]
    with_labels = f", {labeled[0]} and {labeled[1]} of them with labels: no test of new scans" if any(labeled) else ""
    who = [
        *(["the pretraining"] if own.checkpoint_sha256 else []),
        *([f"learning from {own.num_unlabeled_volumes} scans without labels"] if own.num_unlabeled_volumes else []),
    ]
    return f"{' and '.join(who)} saw {' and '.join(parts)}{with_labels}."
