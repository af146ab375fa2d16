"""The outcome in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medpretrain3d.evaluation.named_metrics import NamedMetric
from medpretrain3d.statistics import Answer, Verdict
from medpretrain3d.study.answers import Answered, Tested
from medpretrain3d.study.differences import Difference, metric_beside, signed_estimate
from medpretrain3d.study.identity import BASELINE
from medpretrain3d.study.run import Run


@dataclass(frozen=True)
class Finding:
    """One finding: the verdict in a word, a sentence, and the numbers behind it."""

    gist: str
    headline: str
    numbers: str

    def __str__(self) -> str:
        """Return it as a line."""
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


def findings(differences: Sequence[Difference], metric: NamedMetric) -> list[Finding]:
    """Return a sentence per arm and setting, with the verdict by a metric and what it rests on."""
    return [_finding(one, metric) for one in differences]


def answer_findings(answered: Sequence[Answered], metric: NamedMetric) -> list[Finding]:
    """Return a sentence per hypothesis and data set, with the answer by a metric and what it rests on."""
    return [_answer(one, metric) for one in answered]


def _answer(one: Answered, metric: NamedMetric) -> Finding:
    first = one.links[0].judged.effect
    where = one.data or f"over {first.num_data_sets} data sets"
    where += f", {one.detector}" if one.detector else ""
    seeds = min(link.judged.effect.num_seeds for link in one.links)
    rests_on = f"{_count(seeds, 'seed')}, {_count(first.num_scans, 'test case')}"
    headline = f"{one.hypothesis}: {one.answer} ({where}; {rests_on})."
    return Finding(str(one.answer), headline, " ".join(_link(link, metric, len(one.links) > 1) for link in one.links))


def _link(one: Tested, metric: NamedMetric, is_of_chain: bool) -> str:
    judged = one.judged
    named = f"{one.link}: {one.answer}, " if is_of_chain else ""
    parts = [f"{named}{metric} {signed_estimate(judged)}"]
    if one.answer is not Answer.NONE:
        if one.link.needs_delta:
            low, high = judged.equivalence_interval
            parts.append(f"{2 * judged.confidence - 1:.0%} interval [{low:+.3f}, {high:+.3f}], delta {judged.delta:g}")
        parts.append(f"p {judged.corrected_p_value:.4f} after Holm")
    more = [judged.reason if one.answer is Answer.NONE else "", one.settled_by]
    return " ".join([f"{', '.join(parts)}.", *(f"{text[0].upper()}{text[1:]}." for text in more if text)])


def _finding(one: Difference, metric: NamedMetric) -> Finding:
    judged, baseline = one.judged, one.baselines[0].arm
    outcome = {
        Verdict.BETTER: f"{one.arm} is better than {baseline}",
        Verdict.WORSE: f"{one.arm} is worse than {baseline}",
        Verdict.EQUIVALENT: f"{one.arm} and {baseline} are equivalent",
        Verdict.INCONCLUSIVE: f"{one.arm} against {baseline} is inconclusive",
        Verdict.NONE: f"no verdict on {one.arm} against {baseline}",
    }[judged.verdict]
    labels = _listed([str(count) for count in sorted({run.setting[1] for run in one.runs})])
    rests_on = f"{_count(len(one.seeds), 'seed')}, {_count(one.num_cases, 'test case')}"
    rests_on += f" of {len(one.folds)} folds" if one.folds else ""
    exploratory = "" if one.is_primary else ", exploratory"
    headline = f"{one.setting[0]}, {labels} labelled cases: {outcome} ({rests_on}{exploratory})."
    parts = [f"{metric} {one.estimate}"]
    if judged.verdict is not Verdict.NONE:
        parts.append(f"p {judged.corrected_p_value:.4f} after Holm")
    parts.append(f"{metric_beside(metric)} {one.other_estimate}")
    reason = f" {judged.reason[0].upper()}{judged.reason[1:]}." if judged.reason else ""
    return Finding(str(judged.verdict), headline, f"{', '.join(parts)}.{reason}")


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
