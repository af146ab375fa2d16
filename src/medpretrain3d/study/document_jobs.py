"""How the jobs of a study are run, as its document writes it: what makes its stores, and what a job asks for."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from medpretrain3d.command_line.suggestions import did_you_mean
from medpretrain3d.errors import UserError
from medpretrain3d.study.design import KINDS, Resources
from medpretrain3d.study.document_values import Place, a_count, a_list, a_mapping, a_number, a_text, once, only_keys

COMMANDS = ("phantom", "prepare", "pseudo", "split", "cross-validate")
"""Commands that make a store, or candidates out of fold."""


def preparation_of(value: Any, place: Place) -> dict[str, tuple[str, ...]]:
    """Return the commands that make each store, and candidates out of fold, by its folder.

    Raises:
        UserError: a command that makes none, or a store in another.
    """
    stores = {}
    entries = a_mapping(value, place, "stores and the commands that make each", 0)
    for store, lines in zip(once([str(store) for store in entries], place), entries.values(), strict=True):
        inner = place.at(store)
        commands = [lines] if isinstance(lines, str) else a_list(lines, inner, "commands of medpretrain3d")
        for line in commands:
            word = a_text(line, inner).split()[0]
            if word not in COMMANDS:
                hint = did_you_mean(word, COMMANDS)
                wanted = f"a command that makes a store or candidates: {', '.join(COMMANDS)}"
                raise UserError(f"{inner}: got '{word}', wanted {wanted}{hint}")
        stores[store] = tuple(commands)
    for one, other in pairwise(sorted(stores)):
        if other.startswith(one.rstrip("/") + "/"):
            raise UserError(f"{place}: {other} lies in {one}; give each store a folder of its own")
    return stores


def resources_of(value: Any, place: Place) -> dict[str, Resources]:
    """Return what a job of each kind asks the engine for.

    Raises:
        UserError: a key or number is none that can be meant.
    """
    found = {}
    entries = a_mapping(value, place, "{finetune: {cores: 4, gpus: 1, memory_gb: 16, hours: 4}}", 0)
    only_keys(entries, KINDS, place)
    for kind, entry in entries.items():
        inner = place.at(kind)
        given = a_mapping(entry, inner, "{cores: 4, gpus: 1, memory_gb: 16, hours: 4}")
        only_keys(given, ("cores", "gpus", "memory_gb", "hours"), inner)
        found[kind] = Resources(
            cores=a_count(given["cores"], inner.at("cores")) if "cores" in given else None,
            gpus=a_count(given["gpus"], inner.at("gpus"), least=0) if "gpus" in given else None,
            memory_gb=a_number(given["memory_gb"], inner.at("memory_gb"), above=0) if "memory_gb" in given else None,
            hours=a_number(given["hours"], inner.at("hours"), above=0) if "hours" in given else None,
        )
    return found
