"""Parts by name: those of this package and those of plugins."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from medpretrain3d.errors import UserError
from medpretrain3d.plugins import ADDING, OWN, load_plugins, plugin_of

T = TypeVar("T")
_classes: dict[str, type] = {}


class Registry(Generic[T]):
    """Functions or objects of one kind by name.

    Args:
        kind: in words, for messages: `checkpoint reader`.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._parts: dict[str, tuple[T, str]] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorate a function, to be found by this name.

        Raises:
            UserError: a part of another module has the name.
        """

        def add(part: T) -> T:
            self.add(name, part, getattr(part, "__module__", OWN))
            return part

        return add

    def add(self, name: str, part: T, module: str) -> None:
        """Register a part that a module defines.

        Raises:
            UserError: a part of another module has the name.
        """
        known = self._parts.get(name)
        if known is not None and known[1] != module:
            raise UserError(f"{self.kind} '{name}': is in {known[1]} and in {module}; give one of them another name")
        self._parts[name] = (part, module)
        ADDING.add(module)

    def parts(self) -> dict[str, T]:
        """Every part by name in the order of registering, those of plugins first: whoever loads a plugin wants it."""
        return {name: part for name, (part, module) in self._sorted(False) if is_known(module)}

    def names(self) -> list[str]:
        """Return names of all parts, those of this package first, as a list for a user."""
        return [name for name, (_, module) in self._sorted(True) if is_known(module)]

    def __getitem__(self, name: str) -> T:
        """Return the part of a name.

        Raises:
            UserError: there is none; names those that are known.
        """
        parts = self.parts()
        if name not in parts:
            raise UserError(f"{self.kind} '{name}': unknown; known are {', '.join(self.names())}")
        return parts[name]

    def _sorted(self, is_own_first: bool) -> list[tuple[str, tuple[T, str]]]:
        load_plugins()
        return sorted(self._parts.items(), key=lambda entry: is_own(entry[1][1]) != is_own_first)


def note_class(cls: type) -> None:
    """Register a class that a config can name, when it is defined."""
    _classes[f"{cls.__module__}.{cls.__qualname__}"] = cls
    ADDING.add(cls.__module__)


def class_of_plugin(path: str) -> type | None:
    """Return the class of a loaded plugin by its full name; imports nothing that a file names."""
    load_plugins()
    cls = _classes.get(path)
    return cls if cls is not None and plugin_of(cls.__module__) and _is_in_module(cls) else None


def known_classes(base: type[T]) -> dict[str, type[T]]:
    """Return classes of this package and of loaded plugins that derive from a base, by their short names.

    Raises:
        UserError: two have one name.
    """
    load_plugins()
    found: dict[str, type[T]] = {}
    for cls in _classes.values():
        if issubclass(cls, base) and cls is not base and is_known(cls.__module__) and _is_in_module(cls):
            other = found.setdefault(cls.__name__, cls)
            if other is not cls:
                raise UserError(f"{cls.__name__}: is in {other.__module__} and in {cls.__module__}; rename one of them")
    return found


def _is_in_module(cls: type) -> bool:
    """Whether a class is found by its name, as one of a function or of an example in a docstring is not."""
    return getattr(sys.modules.get(cls.__module__), cls.__qualname__, None) is cls


def is_own(module: str) -> bool:
    """Return whether a module is of this package."""
    return module.partition(".")[0] == OWN


def is_known(module: str) -> bool:
    """Return whether a module is of this package or of a loaded plugin."""
    return is_own(module) or plugin_of(module) is not None


def import_modules(package: str, path: Iterable[str]) -> list[Any]:
    """Import every module of a package, so that what it defines is known by being there.

    Compiled loops (`*_kernel`) are left out: numba takes a second to import, and who needs one imports it.
    """
    names = [found.name for found in pkgutil.iter_modules(path) if not found.name.endswith("kernel")]
    return [importlib.import_module(f"{package}.{name}") for name in names]
