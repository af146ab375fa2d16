"""Objects that remember their constructor's arguments, so that a file can hold the recipe of the network inside it.

A config is plain data: `{"class_path": "medpretrain3d.backbones.ResEnc", "init_args": {"preset": "L"}}`, the same form
that a YAML recipe uses, nested where an argument is itself configurable.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, TypeVar, overload

from medpretrain3d.errors import UserError
from medpretrain3d.moved import current_arguments, current_class_path
from medpretrain3d.plugins import OPTION, plugin_of, required_plugins
from medpretrain3d.registry import class_of_plugin, is_own, note_class
from medpretrain3d.values import Checked, arguments_by_name, constructor

Config = dict[str, Any]
T = TypeVar("T")


class Configurable(Checked):
    """Mixin: records the arguments of the constructor call, defaults included, once they are checked."""

    _init_args: dict[str, Any]

    def __init_subclass__(cls, is_base: bool = False, **options: Any) -> None:
        """Make the class known by its name.

        Args:
            is_base: others derive from it, and no config names it: it takes what no file describes.
            options: of other bases.
        """
        super().__init_subclass__(**options)
        if not is_base:
            note_class(cls)

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


@overload
def from_config(config: Mapping[str, Any]) -> Any: ...
@overload
def from_config(config: Mapping[str, Any], base: type[T]) -> T: ...
def from_config(config: Mapping[str, Any], base: type = Configurable) -> Any:
    """Make the object that a config describes.

    Args:
        config: `class_path` and `init_args`.
        base: what its class has to derive from.

    Raises:
        UserError: the class is neither of `medpretrain3d` nor of a loaded plugin (a file must not choose what code
            runs), unknown, does not derive from `base`, or does not take the arguments given.
    """
    path, arguments = config.get("class_path"), config.get("init_args", {})
    if (
        not isinstance(path, str)
        or not isinstance(arguments, Mapping)
        or not all(isinstance(k, str) for k in arguments)
    ):
        raise UserError(f"class_path {path!r}: wanted a text, and init_args an object; the file was written by another")
    cls = _class(path)
    if not issubclass(cls, base):
        raise UserError(f"class_path '{path}' is no {base.__name__}, which is wanted here")
    built = {name: _built(value) for name, value in current_arguments(path, arguments).items()}
    try:
        return cls(**built)
    except UserError:
        raise
    except Exception as error:  # a value that no constructor has expected fails wherever it is used first
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"class_path '{path}': {reason}; the file was written by another version") from error


def plugins_in(value: Any) -> list[dict[str, Any]]:
    """Return the plugins that configs anywhere in plain data need, as a file names them.

    Raises:
        UserError: a class is neither of `medpretrain3d` nor of a loaded plugin.
    """
    return required_plugins(_class(path).__module__ for path in class_paths(value))


def class_paths(value: Any) -> list[str]:
    """Full names of the classes that configs anywhere in plain data name."""
    if isinstance(value, Mapping):
        own = [str(value["class_path"])] if "class_path" in value else []
        return own + [path for item in value.values() for path in class_paths(item)]
    return [path for item in value for path in class_paths(item)] if isinstance(value, list | tuple) else []


def _class(path: str) -> type:
    module_name, _, class_name = current_class_path(path).rpartition(".")
    if not is_own(module_name):
        cls = class_of_plugin(path)
        if cls is None:
            raise UserError(_no_plugin(path))
        return cls
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"class_path '{path}' does not exist in this version of medpretrain3d ({error})") from error
    if not (isinstance(cls, type) and issubclass(cls, Configurable)):
        raise UserError(f"class_path '{path}' is not a class that can be built from a file")
    return cls


def _no_plugin(path: str) -> str:
    package = path.partition(".")[0]
    plugin = plugin_of(package)
    if package == "__main__":
        return f"class_path '{path}': a script's own class is found by nobody else; put it into a package ({OPTION})"
    if plugin is not None:
        return f"class_path '{path}': importing {package} ({plugin}) does not define it; import its module there"
    return (
        f"class_path '{path}': a file may only name classes of medpretrain3d and of plugins that are loaded; give "
        f"{OPTION} {package} if you trust it (docs/extending.md)"
    )


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
