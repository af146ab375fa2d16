"""Plugins: packages of others whose classes and functions are used like this package's own.

Only what the user names runs: with `--plugins`, in a recipe, in `MEDPRETRAIN3D_PLUGINS`, or by installing a package
with an entry point of the group `medpretrain3d.plugins`. A file never chooses what code runs; it names what it needs.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from medpretrain3d.errors import UserError

GROUP = "medpretrain3d.plugins"
"""Of entry points."""
VARIABLE = "MEDPRETRAIN3D_PLUGINS"
"""Environment variable: modules, separated by commas. What is loaded is added, so that child processes load it too."""
OPTION = "--plugins"
OWN = "medpretrain3d"
ADDING: set[str] = set()
"""Modules that have added something: a class that a config can name, or a function that is found by name."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plugin:
    """A loaded plugin."""

    module: str
    """Its package or module, as `--plugins` names it."""
    distribution: str
    """What to install; the module's name where it is of no distribution."""
    version: str | None
    submodules: frozenset[str] = frozenset()
    """Modules that importing it imports, itself included."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as a file names what it needs."""
        return {"module": self.module, "distribution": self.distribution, "version": self.version}

    def __str__(self) -> str:
        return f"{self.distribution} {self.version or 'without a version'}"


_loaded: dict[str, Plugin] = {}
_looked_for: list[str] = []
"""The value of the variable for which plugins were looked for; empty before the first time."""


def load_plugins() -> None:
    """Load what the environment variable and entry points name, once."""
    variable = os.environ.get(VARIABLE, "")
    if _looked_for == [variable]:
        return
    is_first, _looked_for[:] = not _looked_for, [variable]
    for module in _names(variable):
        _load(module)
    for entry in metadata.entry_points(group=GROUP) if is_first else ():
        try:
            _load(entry.module, entry.dist)
        except UserError as error:
            logger.warning("entry point '%s' of %s is left out: %s", entry.name, GROUP, error)


def load_plugin(module: str) -> Plugin:
    """Import a package whose parts are to be used.

    Raises:
        UserError: it is not installed, cannot be imported, or adds nothing.
    """
    load_plugins()
    plugin = _load(module)
    named = _names(os.environ.get(VARIABLE, ""))
    if module not in named:
        os.environ[VARIABLE] = ",".join([*named, module])
        _looked_for[:] = [os.environ[VARIABLE]]
    return plugin


def take_plugins(args: Sequence[str]) -> list[str]:
    """Load what `--plugins` names, wherever it stands in a command line.

    Returns:
        The other arguments.

    Raises:
        UserError: nothing is named; or see `load_plugin`.
    """
    rest: list[str] = []
    words = iter(args)
    for word in words:
        option, equals, value = word.partition("=")
        if word == "--":
            return [*rest, word, *words]
        if option != OPTION:
            rest.append(word)
            continue
        value = value if equals else next(words, "")
        if not _names(value) or value.startswith("-"):
            raise UserError(f"{OPTION}: got {value or 'nothing'}, wanted a package, as in {OPTION} my_package")
        for module in _names(value):
            load_plugin(module)
    return rest


def load_named_plugins(recipe: Mapping[str, Any]) -> None:
    """Load what a recipe names by its key `plugins`, a module or a list of them; a recipe is a program.

    Raises:
        UserError: see `load_plugin`.
    """
    named = recipe.get("plugins")
    for module in [named] if isinstance(named, str) else named if isinstance(named, list) else []:
        load_plugin(str(module))


def plugin_of(module: str) -> Plugin | None:
    """Return the loaded plugin that a module belongs to; None of one that importing the plugin does not import."""
    return next((plugin for plugin in _loaded.values() if module in plugin.submodules), None)


def loaded_plugins() -> list[Plugin]:
    """Return every loaded plugin, in the order of loading."""
    load_plugins()
    return list(_loaded.values())


def required_plugins(modules: Iterable[str]) -> list[dict[str, Any]]:
    """Return the plugins that modules belong to, as a file names what it needs."""
    found = dict.fromkeys(plugin for module in modules if (plugin := plugin_of(module)) is not None)
    return [plugin.to_json() for plugin in found]


def check_required(place: str, required: object) -> tuple[str, ...]:
    """Compare the plugins that a file needs with those that are loaded.

    Args:
        place: the file, for messages.
        required: what the file names; it may be of anybody.

    Returns:
        A note for each that was of another version.

    Raises:
        UserError: one is not loaded; says what to install and what to name.
    """
    notes = []
    for record in required if isinstance(required, list) else []:
        module, distribution, version = (_plain(record, key) for key in ("module", "distribution", "version"))
        if not module:
            raise UserError(f"{place}: names a plugin without a module; the file was written by another")
        load_plugins()
        plugin, message = _loaded.get(module) or plugin_of(module), f"{distribution or module} {version}".strip()
        if plugin is None:
            missing = "not loaded;" if _is_there(module) else "not installed; install it if you trust it, and"
            raise UserError(f"{place}: needs the plugin {message}, which is {missing} give {OPTION} {module}")
        if (plugin.version or "") != version:
            notes.append(f"made with the plugin {message}, here is {plugin}: what it computes may differ")
    return tuple(notes)


def _load(module: str, distribution: metadata.Distribution | None = None) -> Plugin:
    if module in _loaded:
        return _loaded[module]
    if not all(word.isidentifier() for word in module.split(".")) or module.partition(".")[0] == OWN:
        raise UserError(f"{OPTION} {module}: wanted the name of an importable package, as my_package")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as for `python -m`, so that all programs find the same
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise UserError(
                f"plugin {module}: not found; install it, or add the folder that holds it to PYTHONPATH"
            ) from error
        raise UserError(f"plugin {module}: cannot be imported ({_cause(error)})") from error
    except Exception as error:  # whatever a module of others does
        raise UserError(f"plugin {module}: cannot be imported ({_cause(error)})") from error
    submodules = frozenset(name for name in sys.modules if f"{name}.".startswith(f"{module}."))
    if not submodules & ADDING:
        raise UserError(
            f"plugin {module}: adds nothing; a module that importing it imports has to derive a class from a contract "
            "or register a function (docs/extending.md)"
        )
    name, version = (distribution.name, distribution.version) if distribution else _distribution(module)
    stated = getattr(imported, "__version__", None)
    return _loaded.setdefault(module, Plugin(module, name, version or (stated and str(stated)), submodules))


def _distribution(module: str) -> tuple[str, str | None]:
    names = [entry.dist.name for entry in metadata.entry_points(group=GROUP) if entry.module == module and entry.dist]
    names += metadata.packages_distributions().get(module.partition(".")[0], [])
    return (names[0], metadata.version(names[0])) if names else (module, None)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is not None  # runs nothing
    except (ImportError, ValueError):
        return False


def _plain(record: object, key: str) -> str:
    """Return a name or version out of a file of anybody, which may hold what a terminal would obey."""
    value = record.get(key) if isinstance(record, Mapping) else None
    return value if isinstance(value, str) and re.fullmatch(r"[\w.+!-]{1,100}", value) else ""


def _cause(error: BaseException) -> str:
    """Return the error and its location in one line, without the traceback."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    where = f", {os.path.basename(frames[-1].filename)} line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{where}"
