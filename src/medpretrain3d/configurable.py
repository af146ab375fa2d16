"""Objects that remember their constructor's arguments, so that a file can hold the recipe of the network inside it.

A config is plain data: `{"class_path": "medpretrain3d.backbones.ResEnc", "init_args": {"preset": "L"}}`, the same form
that a YAML recipe uses, nested where an argument is itself configurable.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from medpretrain3d.errors import UserError
from medpretrain3d.moved import current_class_path
from medpretrain3d.values import Checked, arguments_by_name, constructor

Config = dict[str, Any]


class Configurable(Checked):
    """Mixin: records the arguments of the constructor call, defaults included, once they are checked."""

    _init_args: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Configurable:
        """Allocate the object and note the arguments that `__init__` is about to receive."""
        self: Configurable = super().__new__(cls, *args, **kwargs)
        try:
            bound = constructor(cls).bind(self, *args, **kwargs)
        except TypeError:
            return self  # unpickling and deepcopy allocate without arguments; a wrong call fails in __init__ itself
        object.__setattr__(self, "_init_args", arguments_by_name(bound))
        return self


def to_config(part: Configurable) -> Config:
    """Return the config from which `from_config` makes a part of the same structure (weights not included)."""
    cls = type(part)
    return {
        "class_path": f"{cls.__module__}.{cls.__qualname__}",
        "init_args": {name: _plain(value) for name, value in part._init_args.items()},
    }


def from_config(config: Mapping[str, Any]) -> Any:
    """Make the object that a config describes.

    Raises:
        UserError: the class is outside `medpretrain3d` (a file must not choose what code runs), unknown, or does not
            take the arguments given.
    """
    path, arguments = config.get("class_path"), config.get("init_args", {})
    if (
        not isinstance(path, str)
        or not isinstance(arguments, Mapping)
        or not all(isinstance(k, str) for k in arguments)
    ):
        raise UserError(f"class_path {path!r}: wanted a text, and init_args an object; the file was written by another")
    module_name, _, class_name = current_class_path(path).rpartition(".")
    if module_name.partition(".")[0] != "medpretrain3d":
        raise UserError(
            f"class_path '{path}': a file may only name classes of medpretrain3d; build the object in Python and load "
            "the weights into it"
        )
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"class_path '{path}' does not exist in this version of medpretrain3d ({error})") from error
    if not (isinstance(cls, type) and issubclass(cls, Configurable)):
        raise UserError(f"class_path '{path}' is not a class that can be built from a file")
    built = {name: _built(value) for name, value in arguments.items()}
    try:
        return cls(**built)
    except UserError:
        raise
    except Exception as error:  # a value that no constructor has expected fails wherever it is used first
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"class_path '{path}': {reason}; the file was written by another version") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Configurable):
        return to_config(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} cannot be written as plain data; derive it from Configurable")


def _built(value: Any) -> Any:
    if isinstance(value, Mapping) and "class_path" in value:
        return from_config(value)
    if isinstance(value, Mapping):
        return {key: _built(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_built(item) for item in value)
    return value
