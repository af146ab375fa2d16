"""Composition of recipes without their parser: what the layers of a configuration say together, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medpretrain3d.command_line.recipes import BASE, read_recipe, with_bases
from medpretrain3d.command_line.signatures import signatures
from medpretrain3d.plugins import OWN, load_named_plugins

CLASS, ARGUMENTS = "class_path", "init_args"


def recipe_layers(path: Path, kind: str) -> list[dict[str, Any]]:
    """Return the content of a recipe and of its bases, the lowest first, each without its `base`.

    Plugins that one of them names are loaded, as the stage does it: their classes are then known to whatever is done
    with the recipe.

    Raises:
        UserError: see `with_bases` and `load_plugin`.
    """
    layers = [read_recipe(one) for one in with_bases(path, kind)]
    for layer in layers:
        load_named_plugins(layer)
    return [{key: value for key, value in layer.items() if key != BASE} for layer in layers]


def composed(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return layers laid over each other as the stages' parser does it: values by key, the later one wins.

    Where a later layer names another class, those arguments stay that the new class takes as well; its name alone is as
    good as a `class_path`. `key+` appends to a list.
    """
    result: dict[str, Any] = {}
    for layer in layers:
        result = overlaid(result, layer)
    return _settled(result)


def overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with the changes of another; see `composed`.

    What appends to a list that neither of them has still does so in the result, which may lie on something itself.
    """
    result = dict(_of_class(below, above))
    for key, value in above.items():
        earlier = result.get(key)
        if _appends(key):
            place = key[:-1] if key[:-1] in result else key
            result[place] = [*_as_list(result.get(place)), *_as_list(value)]
            continue
        result.pop(f"{key}+", None)
        if isinstance(value, Mapping):
            if isinstance(earlier, str) and not {CLASS, ARGUMENTS}.isdisjoint(value):
                earlier = {CLASS: earlier}
            result[key] = overlaid(earlier if isinstance(earlier, Mapping) else {}, value)
        elif isinstance(value, str) and isinstance(earlier, Mapping) and CLASS in earlier:
            result[key] = overlaid(earlier, {CLASS: value})
        else:
            result[key] = value
    return result


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return values by keys with dots; own classes by their short names, entries of a list of objects by place."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
            value = {str(place): one for place, one in enumerate(value)}
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{key}.")
        else:
            flat[key] = _short(value) if name == CLASS else value
    return flat


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options whose keys have dots as the tree that a recipe is."""
    tree: dict[str, Any] = {}
    for key, value in options.items():
        for part in reversed(str(key).split(".")):
            value = {part: value}
        tree = overlaid(tree, value)
    return tree


def _of_class(below: Mapping[str, Any], above: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what stays of an object once its class is another one."""
    if CLASS not in above or CLASS not in below or _short(above[CLASS]) == _short(below[CLASS]):
        return below
    known = signatures(_short(above[CLASS]).rpartition(".")[2])
    arguments = below.get(ARGUMENTS) or {}
    if len(known) == 1 and not known[0].is_open:
        arguments = {name: value for name, value in arguments.items() if name in known[0].parameters}
    return {**below, ARGUMENTS: arguments}


def _settled(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration in which what appends to nothing is the list."""
    return {
        key[:-1] if _appends(key) else key: _settled(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
    }


def _appends(key: object) -> bool:
    return str(key).endswith("+")


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _short(path: object) -> str:
    package, _, rest = str(path).partition(".")
    return rest.rpartition(".")[2] if package in (OWN, "pretrain", "finetune") else str(path)
