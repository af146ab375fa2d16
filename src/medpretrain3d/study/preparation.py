"""What a study makes before its first training: stores, and candidates out of fold, each by a job of commands."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from medpretrain3d.command_line.composition import composed, flattened, recipe_layers
from medpretrain3d.command_line.recipes import find_recipe
from medpretrain3d.documents import json_text
from medpretrain3d.errors import UserError
from medpretrain3d.store.store import INDEX
from medpretrain3d.study.code_version import code_version
from medpretrain3d.study.design import Study
from medpretrain3d.study.inputs import CANDIDATES, is_prepared, listing_hash, open_store, short_hash
from medpretrain3d.study.jobs import Job

CROSS_VALIDATE = "cross-validate"


class Preparation:
    """Expands `prepare` of a study into jobs, in an order in which each comes after those it needs.

    Args:
        study: whose stores and candidates they make.
        adopted: returns a job, or the same one with the result of earlier code.
    """

    def __init__(self, study: Study, adopted: Callable[[Job], Job]) -> None:
        self._lines = study.prepare
        self._adopted = adopted
        self._jobs: dict[str, Job] = {}

    def jobs(self) -> tuple[Job, ...]:
        """Return a job for each folder.

        Raises:
            UserError: a store is made of itself, or a recipe is wrong or not there.
        """
        for folder in self._lines:
            self._add(folder)
        return tuple(self._jobs.values())

    def read_recipes(self) -> None:
        """Read the recipes of all `cross-validate`, which loads the plugins that they name.

        Raises:
            UserError: one is wrong or not there.
        """
        for words in (words for folder in self._lines for words in self.commands(folder)):
            if words[0] == CROSS_VALIDATE:
                _recipe(words)

    def missing(self) -> tuple[str, ...]:
        """Return the folders that are yet to be made."""
        return tuple(folder for folder in self._lines if not self._is_made(folder))

    def makes(self, path: Path) -> bool:
        """Return whether a path is one of its folders, or lies in one."""
        return any(path.is_relative_to(folder) for folder in self._lines)

    def commands(self, folder: str) -> list[tuple[str, ...]]:
        """Return the words of each command that makes a folder; none for a folder that the study does not make."""
        return [tuple(shlex.split(line.replace("{store}", folder))) for line in self._lines.get(folder, ())]

    def _is_made(self, folder: str) -> bool:
        return (Path(folder) / self._product(folder)).is_file() if self._trains(folder) else is_prepared(folder)

    def _trains(self, folder: str) -> bool:
        return any(words[0] == CROSS_VALIDATE for words in self.commands(folder))

    def _product(self, folder: str) -> str:
        return CANDIDATES if self._trains(folder) else INDEX

    def _add(self, folder: str, waiting: tuple[str, ...] = ()) -> None:
        """Add the job of a folder after those of the stores that its commands read."""
        if folder in waiting:
            raise UserError(f"prepare: {folder} is made of itself; name in pseudo the store that prepare writes")
        sources = [one for one in self._sources(folder) if one != folder]
        for source in sources:
            if source in self._lines:
                self._add(source, (*waiting, folder))
        if folder not in self._jobs:
            self._jobs[folder] = self._job(folder, sources)

    def _sources(self, folder: str) -> Iterator[str]:
        """Return the stores in whose scans `pseudo` looks for objects, and on which `cross-validate` trains."""
        for words in self.commands(folder):
            if words[0] == "pseudo" and len(words) > 1:
                yield words[1]
            if words[0] == CROSS_VALIDATE:
                yield option_of(words, "--store") or str(flattened(composed(_recipe(words))).get("data.store"))

    def _job(self, folder: str, sources: Sequence[str]) -> Job:
        commands = self.commands(folder)
        made = [Path(words[1]) for words in commands if words[0] == "phantom" and len(words) > 1]
        raw = [
            Path(word)
            for words in commands
            if words[0] == "prepare"
            for word in words[1:]
            if not word.startswith("-") and Path(word).exists() and Path(word) not in (Path(folder), *made)
        ]
        facts: dict[str, Any] = {f"command {number}": shlex.join(words) for number, words in enumerate(commands)}
        facts |= {"raw": listing_hash(raw)} if raw else {}
        facts |= {
            f"store {one}": open_store(one).fingerprint
            for one in sources
            if one not in self._lines and is_prepared(one)
        }
        facts |= {
            f"recipe {number}": short_hash(json_text(_recipe(words)))
            for number, words in enumerate(commands)
            if words[0] == CROSS_VALIDATE
        }
        return self._adopted(
            Job(
                "prepare",
                {"store": folder},
                facts,
                code_version("finetune" if self._trains(folder) else "prepare"),
                commands=tuple(commands),
                product=Path(folder) / self._product(folder),
                needs=tuple(self._jobs[one] for one in sources if one in self._jobs),
            )
        )


def _recipe(words: Sequence[str]) -> list[dict[str, Any]]:
    """Return the layers of the recipe that a `cross-validate` trains.

    Raises:
        UserError: it names none, or the recipe is wrong.
    """
    name = option_of(words, "--config")
    if name is None:
        raise UserError(f"prepare: {shlex.join(words)}: names no recipe; add --config RECIPE")
    return recipe_layers(find_recipe(name, "finetune"), "finetune")


def option_of(words: Sequence[str], name: str) -> str | None:
    """Return the value that words of a command give an option, the last one, as `--folds 3` or `--folds=3`."""
    behind = [value for word, value in pairwise(words) if word == name]
    within = [word.partition("=")[2] for word in words if word.startswith(f"{name}=")]
    return [None, *behind, *within][-1]
