"""Hypotheses as a document writes them, `mae > scratch`, and what the verdicts say about them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from medpretrain3d.errors import UserError
from medpretrain3d.statistics.verdicts import Verdict


class Answer(StrEnum):
    """What became of a hypothesis."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    OPEN = "open"


@dataclass(frozen=True)
class Hypothesis:
    """An arm is better than (`>`), worse than (`<`) or as good as (`=`) another."""

    arm: str
    relation: str
    other: str

    def __str__(self) -> str:
        """Return it as the document has it."""
        return f"{self.arm} {self.relation} {self.other}"

    def answer(self, verdict: Verdict) -> Answer:
        """Return what the verdict of `arm` against `other` says about it; equivalence refutes a difference."""
        wanted = {">": Verdict.BETTER, "<": Verdict.WORSE, "=": Verdict.EQUIVALENT}[self.relation]
        if verdict in (Verdict.INCONCLUSIVE, Verdict.NONE):
            return Answer.OPEN
        return Answer.SUPPORTED if verdict is wanted else Answer.REFUTED


def parse_hypothesis(text: str) -> Hypothesis:
    """Read `ARM > ARM`, `ARM < ARM` or `ARM = ARM`.

    Raises:
        UserError: it is not of this form, or both arms are the same.
    """
    parts = re.fullmatch(r"\s*([^\s<>=]+)\s*([<>=])\s*([^\s<>=]+)\s*", text)
    if parts is None or parts[1] == parts[3]:
        raise UserError(f"hypothesis '{text}': wanted two arms and one of > < =, as in 'mae > scratch'")
    return Hypothesis(parts[1], parts[2], parts[3])
