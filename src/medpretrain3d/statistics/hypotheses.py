"""Hypotheses as a document writes them, `mae > scratch at 2`, and what the verdicts say about them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from medpretrain3d.errors import UserError
from medpretrain3d.statistics.verdicts import Judgement, Verdict

RELATIONS = (">=", "<=", ">", "<", "=")
"""better, worse, equivalent; `>=` is not worse by delta or more (non-inferior), `<=` not better by that."""
EXAMPLES = "'mae > scratch at 2', 'mae at 4 >= scratch at all', 'mae at 0.5 steps >= scratch' or 'voco = scratch'"
_SIDE = re.compile(r"\s*(\S+)(?:\s+at\s+(\S+))?(?:\s+at\s+(\d+\.?\d*|\.\d+)\s+steps)?\s*")


class Answer(StrEnum):
    """What became of a hypothesis. `NONE`: one run each, or too few scans, so nothing is known about the method.

    Example:
        >>> from medpretrain3d.statistics import Effect, judge, parse_hypothesis
        >>> clear = Effect("mae > scratch", 0.05, 0.01, 99.0, num_seeds=5, num_scans=100)
        >>> parse_hypothesis("mae > scratch").links[0].answer(judge([clear])[0])
        <Answer.CONFIRMED: 'confirmed'>
    """

    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    EQUIVALENT = "equivalent"
    """Neither better nor worse, where a difference was expected: it lies within delta."""
    INCONCLUSIVE = "inconclusive"
    NONE = "no verdict"


@dataclass(frozen=True)
class Side:
    """An arm with so many labels and a share of the steps; None are the labels of the primary question, all steps."""

    arm: str
    labels: str | None = None
    steps: float | None = None

    def resolved(self, labels: str) -> Side:
        """Return it with the labels and steps that it means where it names none.

        Args:
            labels: of the primary question.
        """
        return Side(self.arm, self.labels or labels, 1.0 if self.steps is None else self.steps)

    def __str__(self) -> str:
        labels = "" if self.labels is None else f" at {self.labels}"
        return f"{self.arm}{labels}{'' if self.steps is None else f' at {self.steps:g} steps'}"


@dataclass(frozen=True)
class Link:
    """One comparison of a hypothesis."""

    arm: Side
    relation: str
    other: Side

    def __str__(self) -> str:
        return f"{self.arm} {self.relation} {self.other}"

    @property
    def needs_delta(self) -> bool:
        """Whether it cannot be confirmed without a declared difference that counts as none."""
        return "=" in self.relation

    def question(self, labels: str) -> frozenset[Side]:
        """Return what is compared, whichever side and in whatever words; one question is asked once.

        Args:
            labels: of the primary question.
        """
        return frozenset((self.arm.resolved(labels), self.other.resolved(labels)))

    def answer(self, judged: Judgement) -> Answer:
        """Return what the judgement of `arm` against `other` says about it.

        `>`: confirmed where better, refuted where worse, after the correction for the family. `=`: confirmed where the
        90 % interval lies within +-delta, refuted where it lies beyond. `>=`: confirmed where the 90 % interval lies
        above -delta, refuted where it lies below. These two are one-sided tests of 5 % each, not corrected.
        """
        if judged.verdict is Verdict.NONE:
            return Answer.NONE
        if self.relation in (">", "<"):
            wanted, feared = (Verdict.BETTER, Verdict.WORSE)[:: 1 if self.relation == ">" else -1]
            found = {wanted: Answer.CONFIRMED, feared: Answer.REFUTED, Verdict.EQUIVALENT: Answer.EQUIVALENT}
            return found.get(judged.verdict, Answer.INCONCLUSIVE)
        if judged.delta is None:
            return Answer.INCONCLUSIVE
        delta, (low, high) = judged.delta, judged.equivalence_interval
        if self.relation == "=":
            is_beyond = low > delta or high < -delta
            return Answer.CONFIRMED if judged.is_within_delta else Answer.REFUTED if is_beyond else Answer.INCONCLUSIVE
        low, high = (low, high) if self.relation == ">=" else (-high, -low)
        return Answer.CONFIRMED if low > -delta else Answer.REFUTED if high < -delta else Answer.INCONCLUSIVE


@dataclass(frozen=True)
class Hypothesis:
    """Arms in an expected order: two of them, or a chain `a > b > c`, of which every link has to hold.

    Example:
        >>> from medpretrain3d.statistics import parse_hypothesis
        >>> [str(link) for link in parse_hypothesis("det > mae > scratch at 2").links]
        ['det at 2 > mae at 2', 'mae at 2 > scratch at 2']
    """

    sides: tuple[Side, ...]
    relations: tuple[str, ...]
    data: str | None = None
    """The data set that it is about; None for every one."""

    @property
    def links(self) -> tuple[Link, ...]:
        """Comparisons of neighbors."""
        pairs = zip(pairwise(self.sides), self.relations, strict=True)
        return tuple(Link(arm, relation, other) for (arm, other), relation in pairs)

    def __str__(self) -> str:
        """Return it as the document has it."""
        words = [str(self.sides[0])]
        for relation, side in zip(self.relations, self.sides[1:], strict=True):
            words += [relation, str(side)]
        return " ".join([*words, *(["on", self.data] if self.data else [])])

    @staticmethod
    def combined(answers: Sequence[Answer]) -> Answer:
        """Return the answer of a chain from those of its links: confirmed where all are, refuted where one is."""
        order = (Answer.REFUTED, Answer.NONE, Answer.EQUIVALENT, Answer.INCONCLUSIVE, Answer.CONFIRMED)
        return min(answers, key=order.index)


def parse_hypothesis(text: str) -> Hypothesis:
    """Read `ARM [at LABELS] [at SHARE steps] > ARM [on DATA]`, with `>`, `<`, `=`, `>=` or `<=`, or a chain of them.

    What the last arm says of labels or steps holds for all arms that say nothing of them.

    Raises:
        UserError: it is not of this form, an arm is compared with itself, or a chain changes its direction.
    """
    parts = re.split(r"(>=|<=|[<>=])", text)
    body, _, data = parts[-1].strip().partition(" on ")
    found = [_SIDE.fullmatch(part) for part in [*parts[:-1:2], body]]
    if len(found) < 2 or None in found or (data and len(data.split()) != 1):
        raise UserError(f"hypothesis '{text}': wanted arms with one of > < = >= <= between them, as in {EXAMPLES}")
    relations = tuple(parts[1::2])
    if len({relation[0] for relation in relations}) > 1:
        raise UserError(f"hypothesis '{text}': a chain goes one way, got {' and '.join(dict.fromkeys(relations))}")
    sides = [Side(one[1], one[2], float(one[3]) if one[3] else None) for one in found if one is not None]
    last = sides[-1]
    sides = [Side(one.arm, one.labels or last.labels, last.steps if one.steps is None else one.steps) for one in sides]
    if len({(one.arm, one.labels, 1.0 if one.steps is None else one.steps) for one in sides}) < len(sides):
        raise UserError(f"hypothesis '{text}': compares an arm with itself; wanted two, as in {EXAMPLES}")
    return Hypothesis(tuple(sides), relations, data.strip() or None)
