"""The outcome in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medpretrain3d.study.differences import BASELINE, NOT_DISTINGUISHABLE, Difference
from medpretrain3d.study.run import Run


@dataclass(frozen=True)
class Verdict:
    """One finding: its gist (`higher`, `lower`, `not distinguishable`), a sentence, and the numbers behind it."""

    gist: str
    headline: str
    numbers: str

    def __str__(self) -> str:
        return f"{self.headline} {self.numbers}"


def question(finetuning: Sequence[Run], pretraining: Sequence[Run], arms: Mapping[Run, str]) -> str:
    """Summarize the comparison in a sentence."""
    if not finetuning:
        methods = _listed(sorted({run.method for run in pretraining}))
        return f"{_count(len(pretraining), 'pretraining run')} ({methods}), and no fine-tuning run to compare."
    names = list(dict.fromkeys(arms[run] for run in finetuning))
    starts = [f"from {name}" if name.startswith(BASELINE) else f"after {name} pretraining" for name in names]
    datasets = _listed(sorted({run.setting[0] for run in finetuning}))
    labels = _listed([str(count) for count in sorted({run.setting[1] for run in finetuning})])
    seeds = len({run.metadata.seed for run in finetuning if run.is_tested})
    tests = sorted({run.metrics["num_cases"] for run in finetuning if "num_cases" in run.metrics})
    tested = f"tested on {_listed([str(count) for count in tests])} cases" if tests else "not tested yet"
    return (
        f"The same detector fine-tuned on {datasets} with {labels} labelled cases, started {_listed(starts)}: "
        f"{_count(len(finetuning), 'run')}, {_count(seeds, 'seed')}, {tested}."
    )


def verdicts(differences: Sequence[Difference], arms: Mapping[Run, str]) -> list[Verdict]:
    """Return a sentence per arm and setting: is it distinguishable from scratch?"""
    groups: dict[tuple[str, tuple[str, int]], list[Difference]] = {}
    for one in differences:
        groups.setdefault((arms[one.run], one.run.setting), []).append(one)
    return [_verdict(arm, setting, members) for (arm, setting), members in groups.items()]


def _verdict(arm: str, setting: tuple[str, int], members: Sequence[Difference]) -> Verdict:
    where = f"{setting[0]}, {setting[1]} labelled cases"
    gists = {one.verdict for one in members}
    gist = gists.pop() if len(gists) == 1 else NOT_DISTINGUISHABLE
    outcome = {
        "higher": f"{arm} is better than {BASELINE}",
        "lower": f"{arm} is worse than {BASELINE}",
        NOT_DISTINGUISHABLE: f"no distinguishable difference between {arm} and {BASELINE}",
    }[gist]
    num_cases = max(one.num_cases for one in members)
    headline = f"{where}: {outcome} on {num_cases} test cases."
    if len(members) == 1:
        return Verdict(gist, headline, f"mAP {members[0].mean_ap}, AP50 {members[0].ap50}.")
    values = [one.mean_ap.value for one in members if one.mean_ap.is_known and one.mean_ap.value is not None]
    tally = {gist: sum(one.verdict == gist for one in members) for gist in ("higher", "lower")}
    mean = f"mAP {sum(values) / len(values):+.3f} on average" if values else "mAP is not known"
    spread = f" ({min(values):+.3f} to {max(values):+.3f})" if values else ""
    return Verdict(
        gist,
        headline,
        f"{mean} over {len(members)} pairs{spread}; the interval lies above zero in {tally['higher']} of them, "
        f"below in {tally['lower']}.",
    )


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
