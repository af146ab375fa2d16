"""Validation of a configuration against signatures, before torch is imported.

Whatever cannot be judged so (classes of others, values that only a constructor understands) is left to the parser.
"""

from __future__ import annotations

import os
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml

from medpretrain3d.command_line.recipes import BASE, load_recipe, read_recipe
from medpretrain3d.command_line.signatures import (
    Part,
    Signature,
    callbacks,
    is_below,
    names_below,
    signatures,
    trainer_options,
)
from medpretrain3d.command_line.suggestions import did_you_mean
from medpretrain3d.command_line.trainer import OPTIONS as TRAINER_TYPES
from medpretrain3d.errors import UserError
from medpretrain3d.plugins import GROUP, OPTION, VARIABLE
from medpretrain3d.values import fits, shown, wanted

CLASSES = {
    "pretrain": {"model": "PretrainModule", "data": "PretrainData", "run": "RunConfig", "device": "DeviceConfig"},
    "finetune": {"model": "FinetuneModule", "data": "FinetuneData", "run": "RunConfig", "device": "DeviceConfig"},
}
"""What stands below the keys of each stage, beside `trainer`."""
PLAIN = ("seed_everything", "plugins", "ckpt_path", "weights_only", "config", BASE)
OWN = ("medpretrain3d", "pretrain", "finetune")


class Word(str):
    """A value from the command line: text, or what YAML makes of it."""


class Precheck:
    """Looks at the layers of a configuration, each recipe and option of a command line, in their order.

    Args:
        stage: `pretrain` or `finetune`.
        has_plugins: whether classes of others may be named shortly.
    """

    def __init__(self, stage: str, has_plugins: bool = False) -> None:
        self._roots = CLASSES[stage]
        self._has_plugins = has_plugins
        self._chosen: dict[str, str] = {}  # the class at each key, by what an earlier layer said
        self._source = ""

    def layer(self, document: Mapping[str, Any], source: str) -> None:
        """Look at one layer.

        Raises:
            UserError: a key, class or value is none that can be meant.
        """
        self._source = source
        self._has_plugins |= bool(document.get("plugins"))
        for name, value in _named(document):
            if name == "trainer" and isinstance(value, Mapping):
                self._trainer(value)
            elif name in self._roots:
                (signature,) = signatures(self._roots[name])
                value = _loaded(value) if isinstance(value, Word) else value
                if isinstance(value, Mapping):
                    self._members(value, signature, name)
                elif value is not None and not (isinstance(value, str) and Path(value).is_file()):
                    raise UserError(
                        f"configuration: {name}: got {shown(value)}, wanted options of it, such as "
                        f"--{name}.{next(iter(signature.parameters))} ({self._source})"
                    )
            elif name not in (*PLAIN, "trainer"):
                raise self._unknown(name, self._tail(name, value), "", [*self._roots, "trainer", *PLAIN[:-1]])

    def _trainer(self, options: Mapping[str, Any]) -> None:
        known = trainer_options()
        for name, value in _named(options):
            if known and name.rstrip("+") not in known:
                raise self._unknown(name, f"trainer.{name}", "trainer", known)
            if name in TRAINER_TYPES:
                self._plain(value, TRAINER_TYPES[name], "trainer", name)
            if name.rstrip("+") == "callbacks":
                self._callbacks(value)

    def _callbacks(self, value: Any) -> None:
        """Look at the names of callbacks; those of others, and files that hold some, are left to the parser."""
        value = _loaded(value) if isinstance(value, Word) else value
        for one in value if isinstance(value, list) else [value]:
            named = one.get("class_path") if isinstance(one, Mapping) else one
            if not isinstance(named, str) or "/" in named or named.endswith((".yaml", ".yml", ".json")):
                continue
            module, _, short = named.rpartition(".")
            is_of_others = bool(module) and module.partition(".")[0] not in OWN
            if is_of_others or self._has_plugins or not callbacks() or short in callbacks():
                continue
            known = [name for name in callbacks() if not name.startswith("_")]
            hint = did_you_mean(short, known) or f"; there are {', '.join(sorted(known))}"
            raise UserError(
                f"configuration: trainer.callbacks: unknown class '{short}' of type Callback{hint} ({self._source})"
            )

    def _members(self, arguments: Mapping[str, Any], signature: Signature, key: str) -> None:
        for name, value in _named(arguments):
            if name not in signature.parameters:
                if not signature.is_open and not name.endswith("+"):
                    raise self._unknown(name, f"{key}.{name}", key, signature.parameters)
            else:
                self._value(value, signature.parameters[name], f"{key}.{name}", signature.name)

    def _value(self, value: Any, hint: Any, key: str, owner: str) -> None:
        if hint is None:
            return
        parts = list(parts_of(hint))
        if not parts:
            self._plain(value, hint, owner, key.rpartition(".")[2])
            return
        value = _loaded(value) if isinstance(value, Word) else value
        if isinstance(value, list):
            for number, one in enumerate(value):
                if isinstance(one, Mapping):
                    self._part(one, parts, f"{key}.{number}")
        elif isinstance(value, Mapping):
            self._part(value, parts, key)
        elif isinstance(value, str):
            is_name = "/" not in value and not value.endswith((".yaml", ".yml", ".json"))
            if is_name and not fits(value, hint):  # a word may stand for an object: `box_loss: giou`
                self._part({"class_path": value}, parts, key)
        elif not fits(value, hint):
            raise self._unfit(value, hint, owner, key.rpartition(".")[2])

    def _part(self, value: Mapping[str, Any], parts: Sequence[str], key: str) -> None:
        """An object: the class that is named here, or was by an earlier layer, and its arguments."""
        name = value.get("class_path") or self._chosen.get(key)
        if name is None:
            (*_, first) = (one for part in parts for one in signatures(part))
            if len(parts) == 1 and first.is_dataclass:
                self._members(value, first, key)
            return
        self._chosen[key] = str(name)
        signature = self._class(str(name), parts, key)
        if signature is None:
            return
        arguments = value.get("init_args") or {}
        if isinstance(arguments, Mapping):
            self._members(arguments, signature, f"{key}.init_args")
        short = {one: each for one, each in value.items() if one not in ("class_path", "init_args", "dict_kwargs")}
        self._members(short, signature, key)

    def _class(self, name: str, parts: Sequence[str], key: str) -> Signature | None:
        module, _, short = name.rpartition(".")
        if module and module.partition(".")[0] not in OWN:
            return None
        found = [one for one in signatures(short) if any(is_below(one, part) for part in parts)]
        if found or self._has_plugins:
            return found[0] if len(found) == 1 else None  # of two the parser says that they are two
        what = " or ".join(parts)
        known = [one for part in parts for one in names_below(part) if not one.startswith("_")]
        hint = did_you_mean(short, known) or f"; there are {', '.join(sorted(known))}"
        message = f"'{name}' is not of type {what}" if signatures(short) else f"unknown class '{name}' of type {what}"
        raise UserError(f"configuration: {key}: {message}{hint} ({self._source})")

    def _plain(self, value: Any, hint: Any, owner: str, name: str) -> None:
        if isinstance(value, Mapping) and any(isinstance(one, Word) for one in value.values()):
            return  # an option of a table's entry
        read = _loaded(value) if isinstance(value, Word) else value
        if fits(read, hint) or fits(str(value), hint):
            return
        raise self._unfit(read, hint, owner, name)

    def _unfit(self, value: Any, hint: Any, owner: str, name: str) -> UserError:
        return UserError(f"configuration: {owner}: got {name} {shown(value)}, wanted {wanted(hint)} ({self._source})")

    def _unknown(self, name: str, key: str, place: str, known: Iterable[str]) -> UserError:
        if "." in name and not self._source.startswith("--"):
            *above, last = name.split(".")
            nested = "".join(f"{part}: {{" for part in above) + f"{last}: ...{'}' * len(above)}"
            return UserError(
                f"configuration: got the key '{name}', wanted '{nested}': keys with dots are for the command line and "
                f"the options of a study ({self._source})"
            )
        hint = did_you_mean(name, known)
        if not hint:
            last = key.rpartition(".")[2]  # where that is the word for something, it stands at the wrong place
            same = [one for one in self._all_keys() if one.rpartition(".")[2] == last]
            hint = f"; did you mean '{same[0]}'?" if same else ""
            name = key if hint else name
        where = f"{place} of " if place and not self._source.startswith("--") else ""
        return UserError(f"configuration: unknown key '{name}'{hint} ({where}{self._source})")

    def _all_keys(self) -> list[str]:
        """Return keys down to the arguments of what is below the roots, and of classes chosen so far."""
        keys = [f"trainer.{name}" for name in trainer_options()]
        for root, name in self._roots.items():
            for parameter, hint in signatures(name)[0].parameters.items():
                keys.append(f"{root}.{parameter}")
                parts = [one for part in parts_of(hint) for one in signatures(part) if one.is_dataclass]
                keys += [f"{root}.{parameter}.{inner}" for one in parts for inner in one.parameters]
        for key, name in self._chosen.items():
            chosen = signatures(name.rpartition(".")[2])
            keys += [f"{key}.init_args.{inner}" for one in chosen for inner in one.parameters]
        return keys

    @staticmethod
    def _tail(name: str, value: Any) -> str:
        """Return the whole key of an option of the command line."""
        while isinstance(value, Mapping) and len(value) == 1:
            ((inner, value),) = value.items()
            name = f"{name}.{inner}"
        return name


def precheck(stage: str, words: Sequence[str]) -> None:
    """Look at a command line whose recipes are files, bases first.

    Raises:
        UserError: see `Precheck.layer`.
    """
    if any(word in ("-h", "--help") or word.partition("=")[0].endswith(".help") for word in words):
        return
    has_plugins = any(word.partition("=")[0] == OPTION for word in words) or bool(
        os.environ.get(VARIABLE) or metadata.entry_points(group=GROUP)
    )
    check, rest = Precheck(stage, has_plugins), iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if not name.startswith("--") or name in ("--print_config", "--", OPTION):
            continue
        if not equals and (value := next(rest, "")) == "":
            return
        if name == "--config":
            document = read_recipe(Path(value)) if Path(value).is_file() else _loaded(value)
            if isinstance(document, Mapping):
                check.layer(document, value if Path(value).is_file() else "--config")
            continue
        layer: Any = Word(value)
        for key in reversed(name[2:].split(".")):
            layer = {key: layer}
        check.layer(layer, f"{name} {value}")


def parts_of(hint: Any) -> Iterator[str]:
    """Return names of the classes in a type."""
    if isinstance(hint, type) and get_origin(hint) is None and issubclass(hint, Part):
        yield hint.__name__
    elif get_origin(hint) in (Union, types.UnionType, list):
        for one in get_args(hint):
            yield from parts_of(one)


def _named(arguments: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    return [(str(name), value) for name, value in arguments.items()]


def _loaded(text: str) -> Any:
    try:
        return load_recipe(str(text))
    except yaml.YAMLError:
        return text
