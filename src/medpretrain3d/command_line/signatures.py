"""Signatures of classes as their source states them: what a recipe may say is known before anything is imported.

Importing the classes takes torch (0.9 s) and Lightning (2.3 s); reading their constructors takes 0.1 s.
"""

from __future__ import annotations

import ast
import functools
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import annotated_types

from medpretrain3d import values
from medpretrain3d.command_line.installation import PACKAGE, programs_folder

FOLDERS = ("backbones", "objectives", "detection", "store", "loading", "semi_supervised", "inference", "engine")
"""Folders of the package whose classes a recipe may name, or whose arguments it may give."""
HARMLESS = {"Checked", "Configurable", "ABC", "Module", "LightningModule", "LightningDataModule", "Callback"}
"""Bases outside of these folders whose constructors take nothing that is left to them."""


_BUILTINS = (int, float, str, bool, list, tuple, dict)


class Part:
    """Stands for a class in the types of arguments."""


@dataclass(frozen=True)
class Signature:
    """Signature of a class, as far as it is known."""

    name: str
    bases: tuple[str, ...]
    parameters: Mapping[str, Any]
    """Type of each argument; None where it is not known without an import."""
    is_open: bool
    """Whether it may take other arguments as well."""
    is_dataclass: bool
    defaults: Mapping[str, str]
    """Defaults, as they are written."""
    texts: Mapping[str, str]
    """What the docstring says of arguments."""


@functools.cache
def files_of_classes() -> dict[str, list[Path]]:
    """Return the files that define a class of each name."""
    folders = [
        *(PACKAGE / folder for folder in FOLDERS),
        *(programs_folder() / one for one in ("pretrain", "finetune")),
    ]
    found: dict[str, list[Path]] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            for name in re.findall(r"^class (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE):
                found.setdefault(name, []).append(path)
    return found


@functools.cache
def signatures(name: str) -> tuple[Signature, ...]:
    """Return the classes of a name."""
    return tuple(_signature(path, name) for path in files_of_classes().get(name, []))


def is_below(signature: Signature, base: str) -> bool:
    """Return whether a class is, or derives from, one of a name."""
    return signature.name == base or any(is_below(one, base) for name in signature.bases for one in signatures(name))


def names_below(base: str) -> list[str]:
    """Return names of the classes that derive from one."""
    return [name for name in files_of_classes() if any(is_below(one, base) for one in signatures(name))]


@functools.cache
def trainer_options() -> frozenset[str]:
    """Return arguments of Lightning's trainer; empty where its source is not where it used to be."""
    path = _of_lightning("trainer/trainer.py")
    if path is not None and path.is_file() and (init := _constructor(_class_in(path, "Trainer"))):
        return frozenset(name for name, _ in _arguments(init))
    return frozenset()


@functools.cache
def callbacks() -> frozenset[str]:
    """Return names of callbacks, Lightning's and ours; empty where its source is not where it used to be."""
    folder = _of_lightning("callbacks")
    files = [] if folder is None else sorted(folder.rglob("*.py"))
    theirs = {name for path in files for name in re.findall(r"^class (\w+)", path.read_text("utf-8"), re.MULTILINE)}
    if "Callback" not in theirs:
        return frozenset()

    def is_one(signature: Signature) -> bool:
        return any(base in theirs or any(map(is_one, signatures(base))) for base in signature.bases)

    return frozenset(theirs) | {name for name in files_of_classes() if any(map(is_one, signatures(name)))}


def _of_lightning(place: str) -> Path | None:
    """Return a file or folder of `lightning.pytorch`; None where it is not installed."""
    try:
        return Path(str(metadata.distribution("lightning").locate_file(f"lightning/pytorch/{place}")))
    except metadata.PackageNotFoundError:
        return None


def _signature(path: Path, name: str) -> Signature:
    node = _class_in(path, name)
    named = [_last_name(base) for base in node.bases]
    bases = tuple(base for base in named if base != name)  # `class Conv3d(nn.Conv3d)` derives from another one
    is_dataclass = any("dataclass" in ast.unparse(one) for one in node.decorator_list)
    inherited = [one for base in bases for one in signatures(base)]
    is_dataclass = is_dataclass or any(one.is_dataclass for one in inherited)
    known = {key: hint for one in reversed(inherited) for key, hint in one.parameters.items()}
    is_open = any(one.is_open for one in inherited) or any(
        base not in HARMLESS and (base == name or not files_of_classes().get(base)) for base in named
    )
    defaults = {key: text for one in reversed(inherited) for key, text in one.defaults.items()}
    texts = {key: text for one in reversed(inherited) for key, text in one.texts.items()} | _texts(node)
    init = _constructor(node)
    if init is not None:
        defaults |= _defaults(init)
        own = {argument: _hint(path, annotation) for argument, annotation in _arguments(init)}
        hands_on = init.args.kwarg is not None
        known = {**known, **own} if hands_on else own
        return Signature(name, bases, known, hands_on and is_open, is_dataclass, defaults, texts)
    if is_dataclass:
        fields = [one for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)]
        known |= {ast.unparse(one.target): _hint(path, one.annotation) for one in fields}
        defaults |= {ast.unparse(one.target): ast.unparse(one.value) for one in fields if one.value is not None}
    return Signature(name, bases, known, is_open, is_dataclass, defaults, texts)


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _class_in(path: Path, name: str) -> ast.ClassDef:
    return next(node for node in _tree(path).body if isinstance(node, ast.ClassDef) and node.name == name)


def _constructor(node: ast.ClassDef) -> ast.FunctionDef | None:
    return next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)


def _arguments(init: ast.FunctionDef) -> list[tuple[str, ast.expr | None]]:
    return [(one.arg, one.annotation) for one in [*init.args.args[1:], *init.args.kwonlyargs]]


def _defaults(init: ast.FunctionDef) -> dict[str, str]:
    places, given = init.args.args, init.args.defaults
    pairs = [*zip(places[len(places) - len(given) :], given, strict=True)]
    pairs += [(one, each) for one, each in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True) if each]
    return {one.arg: ast.unparse(each) for one, each in pairs}


def _texts(node: ast.ClassDef) -> dict[str, str]:
    """Of arguments, from the section of the docstring; of fields, from the texts below them."""
    section = re.search(r"^Args:\n(.*?)(?:^\S|\Z)", ast.get_docstring(node) or "", re.MULTILINE | re.DOTALL)
    entries = re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w|\Z)", section[1] if section else "", re.MULTILINE | re.DOTALL)
    texts = {name: " ".join(text.split()) for name, text in entries}
    for field, text in pairwise(node.body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            texts[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return texts


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


@functools.cache
def _part(name: str) -> type:
    return type(name, (Part,), {})


class _Scope(dict[str, Any]):
    """Names as they are in a file, as far as they are types of options, classes of `FOLDERS`, or made of these."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __missing__(self, name: str) -> Any:
        for module in (values, typing, annotated_types):
            if hasattr(module, name):
                return getattr(module, name)
        if name in files_of_classes():
            return _part(name)
        for node in _tree(self.path).body:
            if isinstance(node, ast.Assign) and [_last_name(one) for one in node.targets] == [name]:
                return _evaluated(self.path, node.value)
            if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
                path = PACKAGE.joinpath(*(node.module or "").split(".")[1:]).with_suffix(".py")
                if (node.module or "").startswith(f"{PACKAGE.name}.") and path.is_file():
                    return _Scope(path)[name]
        raise KeyError(name)  # of a builtin, or unknown


def _evaluated(path: Path, node: ast.expr) -> Any:
    code = compile(ast.Expression(node), str(path), "eval")  # of this package's own source
    return eval(code, {"__builtins__": {one.__name__: one for one in _BUILTINS}}, _Scope(path))


def _hint(path: Path, annotation: ast.expr | None) -> Any:
    try:
        return None if annotation is None else _evaluated(path, annotation)
    except (NameError, TypeError, AttributeError):
        return None
