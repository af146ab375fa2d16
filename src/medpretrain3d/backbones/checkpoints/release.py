"""What is known of published weights beyond their tensors: their data, their frame, their licences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint
from medpretrain3d.configurable import Config

RESTRICTION = "restriction"
"""In a card: what the licence of weights forbids; in that of weights continued from them as well."""


@dataclass(frozen=True)
class Release:
    """Weights that others published, as `inspect` tells of them and docs/checkpoints.md lists them.

    Example:
        >>> from medpretrain3d.backbones.checkpoints.ct_fm import CT_FM
        >>> CT_FM.orientation, CT_FM.spacing_mm
        ('SPL', (3.0, 1.0, 1.0))
    """

    name: str
    summary: str
    """What it is, in one line."""
    where: str
    """Where it is found."""
    architecture: Config
    """Of the released size."""
    paradigm: str
    corpus: str
    overlap: str
    """What of public detection data it saw, or may have seen."""
    code_licence: str
    weights_licence: str
    citation: str
    orientation: str | None = "SPL"
    """Of the volumes it was trained on; None where that cannot be told from public code."""
    spacing_mm: Sequence[float] | None = None
    """Along our axes (D, H, W); None for scans at their own."""
    window: Config | None = None
    normalisation: str | None = None
    """In words, as cards spell it, where no window says it."""
    restriction: str | None = None
    """What the licence forbids to do with weights that begin from these."""

    def variants(self, arguments: Mapping[str, Any], names: Sequence[str]) -> list[str]:
        """Return a note for each argument of a file's network that is not the released one's; unstated ones are not."""
        released = self.architecture["init_args"]
        return [
            f"{name} {arguments[name]}, where the released {self.name} has {released[name]}: read as it by its names"
            for name in names
            if arguments[name] != released[name]
        ]

    def card(self, raw: RawCheckpoint, orientation: str | None = None) -> dict[str, Any]:
        """Return the card of the encoder file: plain data.

        Args:
            raw: the file; the licence of a card beside it goes first.
            orientation: what was asked for instead of the release's own.
        """
        facts = {
            "spacing_mm": None if self.spacing_mm is None else list(self.spacing_mm),
            "window": self.window,
            "normalisation": self.normalisation,
            "orientation": orientation or self.orientation,
        }
        return {
            "release": {"name": self.name, "summary": self.summary, "where": self.where},
            "preprocessing": {key: fact for key, fact in facts.items() if fact is not None},
            "pretraining": {"paradigm": self.paradigm, "corpus": self.corpus, "overlap": self.overlap},
            "licence": raw.licence or self.weights_licence,
            "code_licence": self.code_licence,
            **({RESTRICTION: self.restriction} if self.restriction else {}),
            "citations": [self.citation],
        }


def restrictions(card: Mapping[str, Any]) -> list[str]:
    """Return what the licences of weights, and of those they were continued from, forbid; each once."""
    found: list[str] = []
    part: Any = card
    while isinstance(part, Mapping):
        if part.get(RESTRICTION):
            found.append(str(part[RESTRICTION]))
        part = part.get("continued_from")
    return list(dict.fromkeys(found))
