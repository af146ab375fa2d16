"""Recipes: the YAML that configures a run, found by path or name, and on top of its base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from medpretrain3d.command_line.installation import programs_folder
from medpretrain3d.command_line.suggestions import did_you_mean
from medpretrain3d.documents import check_yaml, read_yaml
from medpretrain3d.errors import UserError
from medpretrain3d.moved import with_current_names

BASE = "base"
"""The key by which a recipe names the recipe or recipes that it changes."""

_load = get_loader("yaml")


def recipe_names(kind: str) -> list[str]:
    """Return names of the recipes that ship with the package.

    Args:
        kind: a folder of `configs/`: `pretrain`, `finetune`, `study` or `sweeps`.
    """
    return sorted(path.stem for path in (programs_folder() / "configs" / kind).glob("*.yaml"))


def find_recipe(text: str, kind: str, beside: Path | None = None) -> Path:
    """Return the file that a path or a name means; a path wins.

    Args:
        text: a path, or the name of a recipe of the package.
        kind: a folder of `configs/`.
        beside: the folder that a path is relative to; default: the current one.

    Raises:
        UserError: there is no such file and no recipe of that name.
    """
    path = (beside or Path()) / text
    name = text.removesuffix(".yaml")
    known = recipe_names(kind)
    if path.is_file() or (name not in known and ("/" in text or path.is_dir())):
        return path  # what is wrong with a path is said by its reader
    if name in known:
        return programs_folder() / "configs" / kind / f"{name}.yaml"
    others = [
        other for other in ("pretrain", "finetune", "study", "sweeps") if other != kind and name in recipe_names(other)
    ]
    hint = f"; it is a recipe of {' and '.join(others)}" if others else did_you_mean(name, known)
    raise UserError(f"{text}: no such file, and no recipe of {kind} has that name{hint or f'; names: {_few(known)}'}")


def with_bases(path: Path, kind: str, below: Sequence[Path] = ()) -> list[Path]:
    """Return a recipe and what it lies on, in the order in which they are loaded: the lowest base first.

    Args:
        path: the recipe.
        kind: a folder of `configs/`, for bases given by name.
        below: the recipes that named this one as their base.

    Raises:
        UserError: a recipe cannot be read, or is its own base.
    """
    real = path.resolve()
    if real in [one.resolve() for one in below]:
        circle = " -> ".join(one.name for one in [*below, path])
        raise UserError(f"{below[0]}: its bases form a circle ({circle}); take one `{BASE}` away")
    bases = read_recipe(path).get(BASE) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(one, str) for one in bases):
        raise UserError(f"{path}: {BASE} is {bases!r}, wanted the name or path of a recipe, or a list of them")
    chain: list[Path] = []
    for base in bases:
        try:
            found = find_recipe(base, kind, path.parent)
        except UserError as error:
            raise UserError(f"{path}: {BASE}: {error}") from error
        chain += [one for one in with_bases(found, kind, [*below, path]) if one not in chain]
    return [*chain, path]


def expand_recipes(args: Sequence[str], kind: str) -> list[str]:
    """Return a command line whose every `--config` names a file, bases before what lies on them, and each base once.

    Text that is YAML itself, such as `--config '{trainer: {max_steps: 2}}'`, stays as it is.

    Raises:
        UserError: see `find_recipe` and `with_bases`.
    """
    expanded: list[str] = []
    loaded: list[Path] = []
    words = iter(args)
    for word in words:
        option, equals, value = word.partition("=")
        if option not in ("--config", "-c") or (not equals and (value := next(words, "")) == ""):
            expanded.append(word)
            continue
        if any(sign in value for sign in ":{\n") and not Path(value).is_file():
            expanded += ["--config", value]
            continue
        path = find_recipe(value, kind)
        for one in with_bases(path, kind):
            if one is path or one.resolve() not in loaded:
                expanded += ["--config", str(one)]
                loaded.append(one.resolve())
    return expanded


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe from its YAML file; whether its keys and values are known is the parser's affair.

    Raises:
        UserError: the file is missing or too large, no YAML in UTF-8, gives a key twice, is nested too deeply, grows
            when its aliases are followed, or is no mapping.
    """
    document = read_yaml(path, "give a recipe such as those in configs/", load_recipe)
    if not isinstance(document, dict):
        raise UserError(f"{path}: holds a {type(document).__name__}, wanted keys and values as in configs/; mend it")
    return document


def recipe_text(recipe: dict[str, Any]) -> str:
    """Return a recipe as YAML without its `base`, which is loaded before; texts stay texts whatever reads them."""
    own = {key: value for key, value in recipe.items() if key != BASE}
    result: str = yaml.dump(own, Dumper=_Quoted, sort_keys=False)
    return result


def load_recipe(text: str) -> Any:
    """Parse YAML text as jsonargparse does, if it is one that stays small.

    Raises:
        YAMLError: see `check_yaml`, or a value that its tag does not fit.
    """
    check_yaml(text)
    try:
        return with_current_names(_load(text))
    except (ValueError, TypeError, AttributeError, OverflowError, KeyError) as error:
        raise yaml.YAMLError(f"a value cannot be read ({error})") from error


class _Quoted(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML ships no types
    """Writes texts in quotes: `"1e-4"` without them would be a number."""


_Quoted.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))
set_loader("yaml", load_recipe, (yaml.YAMLError,))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
