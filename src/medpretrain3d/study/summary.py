"""The outcome in plain words."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from medpretrain3d.evaluation.named_metrics import NamedMetric
from medpretrain3d.lines import counted, counted_scans, counted_seeds
from medpretrain3d.statistics import Answer, Verdict
from medpretrain3d.study.answers import Answered, Tested
from medpretrain3d.study.conditions import WHOLE, base_arm, detector_of, steps_of
from medpretrain3d.study.differences import Difference, after_holm, metric_beside, signed_estimate
from medpretrain3d.study.identity import BASELINE
from medpretrain3d.study.run import Run
from medpretrain3d.study.table import Estimate


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
        return f"{counted(len(pretraining), 'pretraining run')} ({methods}), and no fine-tuning run to compare."
    starts = list(dict.fromkeys(_start(run, arms[run]) for run in finetuning))
    datasets = _listed(sorted({run.setting[0] for run in finetuning}))
    labels = _counted({run.setting[1] for run in finetuning}, "labelled case")
    seeds = len({run.metadata.seed for run in finetuning if run.is_tested})
    tests = {run.metrics["num_cases"] for run in finetuning if "num_cases" in run.metrics}
    tested = f"tested on {_counted(tests, 'case')}" if tests else "not tested yet"
    folds = {run.metadata.fold for run in finetuning if run.is_tested}
    if tests and len(folds) > 1:
        tested = f"{counted(len(folds), 'fold')}, each {tested}"
    detectors = len({detector_of(run) for run in finetuning})
    what = "The same detector" if detectors == 1 else f"{detectors} detectors"
    return (
        f"{what} fine-tuned on {datasets} with {labels}, started {_listed(starts)}: "
        f"{counted(len(finetuning), 'run')}, {counted(seeds, 'seed')}, {tested}."
    )


def _start(run: Run, arm: str) -> str:
    if arm.startswith(BASELINE):
        return f"from {arm}"
    return f"from {BASELINE} ({arm})" if run.method == BASELINE else f"after {arm} pretraining"


GISTS = [
    *map(str, (Answer.CONFIRMED, Answer.REFUTED, Verdict.BETTER, Verdict.WORSE)),
    *dict.fromkeys(map(str, (*Answer, *Verdict))),
]
"""What is known before what is not."""


def in_short(answered: Sequence[Answered], differences: Sequence[Difference], metric: NamedMetric) -> list[Finding]:
    """Return a sentence per hypothesis, or per arm where none was declared: what came out where, and by how much."""
    groups: dict[str, list[tuple[str, str, str]]] = {}
    if answered:
        for one in answered:
            if one.data or len(answered) == 1:
                named = f"{one.deciding.link}, " if len(one.links) > 1 else ""
                numbers = f"{named}{_measured(one.deciding, metric)}"
                groups.setdefault(str(one.hypothesis), []).append((str(one.answer), _where(one), numbers))
    else:
        has_detectors = len({detector_of(one.runs[0]) for one in differences}) > 1
        for difference in differences:
            if difference.is_primary:
                detector = detector_of(difference.runs[0])
                arm = f"{base_arm(difference.arm, detector)} against {difference.baselines[0].arm}"
                where = f"{difference.place} ({detector})" if has_detectors else difference.place
                gist = str(difference.judged.verdict)
                groups.setdefault(arm, []).append((gist, where, f"{metric} {difference.estimate}"))
    return [_short(name, members) for name, members in groups.items()]


def _where(one: Answered) -> str:
    return f"{one.data} ({one.detector})" if one.detector else one.data or "all data sets"


def _short(name: str, members: Sequence[tuple[str, str, str]]) -> Finding:
    by_gist: dict[str, list[tuple[str, str]]] = {}
    for gist, where, numbers in members:
        by_gist.setdefault(gist, []).append((where, numbers))
    parts = []
    for gist, places in sorted(by_gist.items(), key=lambda one: GISTS.index(one[0])):
        on = f"on {_listed([where for where, _ in places])}" if len(places) < len(members) or len(members) < 4 else ""
        parts.append(f"{gist} {on or 'everywhere'}")
    gist = next(iter(by_gist)) if len(by_gist) == 1 else "mixed"
    numbers = "; ".join(f"{where} {numbers}" if len(members) > 1 else numbers for _, where, numbers in members)
    return Finding(gist, f"{name}: {_listed(parts)}.", f"{numbers}.")


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
    fewest = min((link.judged.effect for link in one.links), key=lambda effect: effect.num_seeds)
    seeds = counted_seeds(fewest.num_finetuning_seeds, fewest.num_seeds)
    rests_on = f"{seeds}, {counted_scans(first.num_scans, first.num_patients, 'test case')}"
    headline = f"{one.hypothesis}: {one.answer} ({where}; {rests_on})."
    return Finding(str(one.answer), headline, " ".join(_link(link, metric, len(one.links) > 1) for link in one.links))


def _link(one: Tested, metric: NamedMetric, is_of_chain: bool) -> str:
    judged = one.judged
    parts = [f"{one.link}: {one.answer}"] if is_of_chain else []
    parts.append(_measured(one, metric))
    if not one.link.needs_delta and one.answer is not Answer.NONE:
        parts.append(after_holm(judged))
    more = [judged.reason if one.answer is Answer.NONE else "", one.settled_by]
    return " ".join([f"{', '.join(parts)}.", *(f"{text[0].upper()}{text[1:]}." for text in more if text)])


def _measured(one: Tested, metric: NamedMetric) -> str:
    """Return a difference with the interval that the answer goes by: that of 90 % where it is compared with delta."""
    judged = one.judged
    if not one.link.needs_delta or one.answer is Answer.NONE:
        return f"{metric} {signed_estimate(judged)}"
    shown = Estimate(judged.effect.difference, *judged.equivalence_interval, is_signed=True)
    return f"{metric} {shown}, {2 * judged.confidence - 1:.0%} interval, delta {judged.delta:g}"


def _finding(one: Difference, metric: NamedMetric) -> Finding:
    judged, baseline = one.judged, one.baselines[0].arm
    outcome = {
        Verdict.BETTER: f"{one.arm} is better than {baseline}",
        Verdict.WORSE: f"{one.arm} is worse than {baseline}",
        Verdict.EQUIVALENT: f"{one.arm} and {baseline} are equivalent",
        Verdict.INCONCLUSIVE: f"{one.arm} against {baseline} is inconclusive",
        Verdict.NONE: f"no verdict on {one.arm} against {baseline}",
    }[judged.verdict]
    labels = _counted({run.setting[1] for run in one.runs}, "labelled case")
    seeds = counted_seeds(judged.effect.num_finetuning_seeds, judged.effect.num_seeds)
    rests_on = f"{seeds}, {counted_scans(one.num_cases, one.num_patients, 'test case')}"
    rests_on += f" of {len(one.folds)} folds" if one.folds else ""
    exploratory = "" if one.is_primary else ", exploratory"
    steps = steps_of(one.runs[0])
    where = f"{one.place}, {labels}{'' if steps == WHOLE else f', {steps} of the steps'}"
    headline = f"{where}: {outcome} ({rests_on}{exploratory})."
    parts = [f"{metric} {one.estimate}"]
    if judged.verdict is not Verdict.NONE:
        parts.append(after_holm(judged))
    parts.append(f"{metric_beside(metric)} {one.other_estimate}")
    reason = f" {judged.reason[0].upper()}{judged.reason[1:]}." if judged.reason else ""
    return Finding(str(judged.verdict), headline, f"{', '.join(parts)}.{reason}")


def _counted(numbers: Collection[int], noun: str) -> str:
    """Return `1 case`, or `20 and 21 cases` where the number is not the same everywhere."""
    several = sorted(numbers)
    return counted(several[0], noun) if len(several) == 1 else f"{_listed(list(map(str, several)))} {noun}s"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
