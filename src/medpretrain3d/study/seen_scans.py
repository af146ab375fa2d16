"""What a reader of a report must know: how many scans of the test the pretraining saw."""

from __future__ import annotations

from collections.abc import Sequence

from medpretrain3d.study.run import Run


def seen_notes(runs: Sequence[Run]) -> list[str]:
    """A line for each run that started from pretrained weights; runs of which the same holds share one."""
    told: dict[str, list[str]] = {}
    for run in runs:
        if run.facts.get("checkpoint_sha256"):
            told.setdefault(_in_words(run), []).append(run.name)
    return [f"{', '.join(names)}: {words}" for words, names in told.items()]


def _in_words(run: Run) -> str:
    facts = run.facts
    counts = [facts.get(f"num_{split}_cases_seen") for split in ("test", "val")]
    if all(count is None for count in counts):
        return "it is not known how many test and validation scans the pretraining saw; its weights do not list them."
    least = "" if facts.get("is_pretraining_data_known", True) else "at least "
    parts = [
        f"{least}{count or 0} of {facts.get(f'num_{split}_cases', '?')} {name} scans"
        for count, split, name in zip(counts, ("test", "val"), ("test", "validation"), strict=True)
    ]
    labelled = [facts.get(f"num_{split}_cases_seen_with_labels") or 0 for split in ("test", "val")]
    with_labels = (
        f", {labelled[0]} and {labelled[1]} of them with labels: no test of new scans" if any(labelled) else ""
    )
    return f"the pretraining saw {' and '.join(parts)}{with_labels}."
