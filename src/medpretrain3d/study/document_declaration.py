"""What a study's document declares beforehand: primary metric, delta and hypotheses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from medpretrain3d.command_line.suggestions import did_you_mean
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.named_metrics import metric_named
from medpretrain3d.statistics import MIN_DATA_SETS, Hypothesis, parse_hypothesis
from medpretrain3d.statistics.hypotheses import Side
from medpretrain3d.study.design import ALL, Arm, Budget, Declaration, Detector
from medpretrain3d.study.document_values import Place, a_list, a_mapping, a_number, a_text, once, only_keys

FIRST_METRIC = "mAP"
"""What a study is judged by unless it says otherwise."""


def declaration_of(
    document: Mapping[str, Any],
    arms: Sequence[Arm],
    labels: Sequence[Budget],
    steps: Sequence[float],
    data: Sequence[str],
    detectors: Sequence[Detector],
    place: Place,
) -> Declaration:
    """Return what is declared.

    Args:
        document: the whole.
        arms: of the study.
        labels: budgets of the study.
        steps: shares of the steps that every arm is run with.
        data: names of its data sets.
        detectors: of the study.
        place: of the document.

    Raises:
        UserError: an unknown metric, budget, arm or data set, or a hypothesis that cannot be read or answered.
    """
    names = [budget.name for budget in labels]
    at = place.at("primary")
    entry = a_mapping(document.get("primary") or {}, at, "{metric: mAP, labels: all}", 0)
    only_keys(entry, ("metric", "labels"), at)
    try:
        metric = metric_named(a_text(entry.get("metric", FIRST_METRIC), at.at("metric")))
    except UserError as error:
        text = str(error)
        raise UserError(text if text.startswith(place.source) else f"{at.at('metric')}: {text}") from error
    wanted = str(entry.get("labels", ALL if ALL in names else names[-1]))
    if wanted not in names:
        raise UserError(
            f"{at.at('labels')}: got {wanted}, which is none of the study's labels: {', '.join(names)}"
            f"{did_you_mean(wanted, names)}"
        )
    delta = document.get("delta")
    delta = None if delta is None else a_number(delta, place.at("delta"), above=0, at_most=1)
    at = place.at("hypotheses")
    texts = a_list(document.get("hypotheses", []), at, "sentences such as [mae > scratch]", least=0)
    hypotheses = [_hypothesis(str(text), arms, names, steps, wanted, data, delta, at) for text in texts]
    known = tuple(once(hypotheses, at))
    places = {one: tuple(_places(one, arms, detectors, steps, wanted, data, at)) for one in known}
    compared = _compared(arms, detectors, wanted, data)
    num_pooled = sum(number >= MIN_DATA_SETS for number in compared.values())
    return Declaration(metric, wanted, delta, known, places, sum(compared.values()), num_pooled)


def _compared(
    arms: Sequence[Arm], detectors: Sequence[Detector], labels: str, data: Sequence[str]
) -> Counter[tuple[str, str]]:
    """Return on how many data sets the study compares each arm with the baseline, by arm and detector."""
    baseline, *others = arms

    def is_run(arm: Arm, name: str, detector: Detector) -> bool:
        return arm.is_run(name, labels) and detector.is_run(name, arm.name, labels)

    return Counter(
        (arm.name, detector.name)
        for name in data
        for detector in detectors
        if is_run(baseline, name, detector)
        for arm in others
        if is_run(arm, name, detector)
    )


def _places(
    hypothesis: Hypothesis,
    arms: Sequence[Arm],
    detectors: Sequence[Detector],
    steps: Sequence[float],
    primary: str,
    data: Sequence[str],
    place: Place,
) -> list[tuple[str, str]]:
    """Return the data sets and detectors that the study runs all sides of a hypothesis with.

    Raises:
        UserError: there is none.
    """
    sides = []
    for side in hypothesis.sides:
        budget = side.labels or primary
        sides.append((_with_steps(side, arms, steps if budget == primary else (1,), f"{place}"), budget))
    found = [
        (name, detector.name)
        for name in ([hypothesis.data] if hypothesis.data else data)
        for detector in detectors
        if all(arm.is_run(name, budget) and detector.is_run(name, arm.name, budget) for arm, budget in sides)
    ]
    if not found:
        raise UserError(
            f"{place}: '{hypothesis}': no detector is run with all of its arms and labels on one data set; see the "
            "keys data, arms and labels of arms and detectors"
        )
    return found


def _hypothesis(
    text: str,
    arms: Sequence[Arm],
    labels: Sequence[str],
    steps: Sequence[float],
    primary: str,
    data: Sequence[str],
    delta: float | None,
    place: Place,
) -> Hypothesis:
    try:
        one = parse_hypothesis(text)
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
    by_name = {arm.name: arm for arm in arms}
    at = f"{place}: '{text}'"
    for side in one.sides:
        if side.arm not in by_name:
            raise UserError(f"{at}: the study has no arm '{side.arm}'{_hint(side.arm, list(by_name), 'arms')}")
        if side.labels is not None and side.labels not in labels:
            raise UserError(f"{at}: the study has no labels '{side.labels}'{_hint(side.labels, labels, 'labels')}")
    if len({side.resolved(primary) for side in one.sides}) < len(one.sides):
        raise UserError(f"{at}: compares an arm with itself, since labels are {primary} where nothing else is said")
    if one.data is not None and one.data not in data:
        raise UserError(f"{at}: the study has no data set '{one.data}'{_hint(one.data, data, 'data')}")
    for side in one.sides:
        budget = side.labels or primary
        arm = _with_steps(side, arms, steps if budget == primary else (1,), at)
        if not any(arm.is_run(name, budget) for name in ([one.data] if one.data else data)):
            where = f" on {one.data}" if one.data else ""
            raise UserError(f"{at}: the study does not run {arm.name} with labels {budget}{where}; see its arm's keys")
    if delta is None and any(link.needs_delta for link in one.links):
        raise UserError(f"{at}: nothing says what counts as no difference; add delta, as delta: 0.02")
    return one


def _with_steps(side: Side, arms: Sequence[Arm], shares: Sequence[float], at: str) -> Arm:
    """Return the arm that is run with the share of the steps that a side of a hypothesis names."""
    own = next(arm for arm in arms if arm.name == side.arm)
    if side.steps is None or side.steps == own.steps or (own.steps == 1 and side.steps in shares):
        return own
    alike = [arm for arm in arms if arm.steps == side.steps and own.steps == 1 and arm.differs_in_steps_alone(own)]
    if alike:
        return alike[0]
    known = ", ".join(f"{share:g}" for share in (shares if own.steps == 1 else (own.steps,)))
    labels = "" if side.labels is None else f" with labels {side.labels}"
    raise UserError(
        f"{at}: the study does not run {side.arm}{labels} at {side.steps:g} of the steps (it does at {known}); add "
        f"steps: [{side.steps:g}, 1], which is for the labels of primary, or an arm like it with steps: {side.steps:g}"
    )


def _hint(word: str, known: Sequence[str], what: str) -> str:
    return did_you_mean(word, known) or f"; {what}: {', '.join(known)}"
