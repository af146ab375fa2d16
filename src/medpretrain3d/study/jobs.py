"""A job of a study: one program, or a few in a row, and everything that its result depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from medpretrain3d.documents import json_text
from medpretrain3d.study.inputs import short_hash

Kind = Literal["prepare", "pretrain", "finetune"]
Facts = Mapping[str, Any]
NUMBERED = ("labels", "steps", "stage", "seed", "fold")
"""Parts of a job's place that are numbers, and mean nothing without their name."""
UNKNOWN = "not prepared yet"
"""Stands for a hash of data that an earlier job has yet to write."""


@dataclass(frozen=True, eq=False)
class Job:
    """One job. Two jobs are the same if their `identity` is, whatever they are called."""

    kind: Kind
    setting: Mapping[str, str]
    """Its place in the design: arm, data, detector, labels, steps, seed, fold; those that it has."""
    facts: Facts
    """All that decides its result: options of the resolved recipe by keys with dots, and hashes of what it reads."""
    code: str
    """Version of the code that runs, see `code_version`."""
    layers: tuple[Mapping[str, Any], ...] = ()
    """Recipes of a stage, each on top of the earlier ones."""
    store: str = ""
    """The folder of the data that it is tested on."""
    commands: tuple[tuple[str, ...], ...] = ()
    """Words of `medpretrain3d` that make a store."""
    product: Path | None = None
    """Of a store: its index."""
    needs: tuple[Job, ...] = ()
    """Jobs whose results it reads."""
    adopted: str | None = None
    """Identity of an earlier result that is taken for this one although other code made it."""

    @cached_property
    def name(self) -> str:
        """What it is, in words: the same for every version of its configuration."""
        parts = [f"{key} {value}" if key in NUMBERED else value for key, value in self.setting.items()]
        return f"{self.kind} {', '.join(parts)}"

    @cached_property
    def recipe(self) -> str:
        """Hash of all facts, those of the jobs it needs among them, without the code."""
        return short_hash(json_text([self.kind, sorted(self.facts.items()), [one.recipe for one in self.needs]]))

    @cached_property
    def identity(self) -> str:
        """Hash of facts and code, of the jobs it needs as well."""
        return self.adopted or short_hash(json_text([self.recipe, self.code, [one.identity for one in self.needs]]))

    @property
    def is_known(self) -> bool:
        """Whether everything that it reads is there, or made by a job that is known."""
        return UNKNOWN not in self.facts.values() and all(one.is_known for one in self.needs)

    @property
    def slug(self) -> str:
        """Name of its folder."""
        words = [f"{key}{value}" if key in NUMBERED else value for key, value in self.setting.items()]
        first = ["encoder"] if self.kind == "pretrain" else []
        return "-".join([*first, *words, self.identity[:8]])


@dataclass(frozen=True)
class Change:
    """A fact that differs between two versions of a job."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key} {_shown(self.before)} -> {_shown(self.now)}"


def changes(before: Facts, now: Facts, code_before: str = "", code_now: str = "") -> list[Change]:
    """Return what differs, in the order of the keys; the code comes last."""
    keys = sorted({*before, *now})
    found = [Change(key, before.get(key), now.get(key)) for key in keys if before.get(key) != now.get(key)]
    return found + ([Change("code", code_before, code_now)] if code_before != code_now else [])


def _shown(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True)
class Jobs:
    """All jobs of a study, in an order in which each comes after those it needs."""

    jobs: tuple[Job, ...]
    unknown: tuple[str, ...] = field(default=())
    """Stores that are to be prepared before the jobs on them are known."""

    def of_kind(self, kind: Kind) -> list[Job]:
        """Return the jobs of one kind."""
        return [job for job in self.jobs if job.kind == kind]
