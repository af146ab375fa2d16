"""Version of the code that a job runs: a hash of every file of this package that its program imports.

The files are found by following imports in their source, so nobody has to list them. Comments and docstrings count: a
file that differs is another file.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from medpretrain3d import __version__
from medpretrain3d.command_line.installation import PACKAGE, programs_folder
from medpretrain3d.command_line.signatures import FOLDERS
from medpretrain3d.plugins import OWN, Plugin, loaded_plugins

STAGES = ("pretrain", "finetune")
NOT_OF_PRETRAINING = ("detection", "inference", "semi_supervised")
ROOTS = {
    "prepare": tuple(f"medpretrain3d.commands.{name}" for name in ("phantom", "prepare", "pseudo", "split")),
    # Recipes name classes of these folders, whether the stage imports them or not.
    "pretrain": ("pretrain", *(f"{OWN}.{folder}" for folder in FOLDERS if folder not in NOT_OF_PRETRAINING)),
    "finetune": ("finetune", *(f"{OWN}.{folder}" for folder in FOLDERS if folder != "objectives")),
}
"""Modules and packages that each kind of job begins with."""
LIBRARIES = ("torch", "lightning")
"""Libraries whose version is part of the code's."""


def code_version(kind: str) -> str:
    """Return version and hash of the code of a kind of job, with plugins and the libraries that train."""
    return _code_version(kind, tuple(loaded_plugins()))


@functools.cache
def _code_version(kind: str, plugins: tuple[Plugin, ...]) -> str:
    digest = hashlib.sha256()
    for name, path in sorted(files_of(ROOTS[kind]).items()):
        digest.update(f"{name}\n".encode())
        digest.update(path.read_bytes())
    libraries = LIBRARIES if kind in STAGES else ()
    for library in libraries:
        digest.update(f"{library} {_version(library)}\n".encode())
    for plugin in plugins:
        digest.update(f"{plugin}\n".encode())
        for name in sorted(plugin.submodules):
            if source := getattr(sys.modules.get(name), "__file__", None):
                digest.update(Path(source).read_bytes())
    return f"{__version__}+{digest.hexdigest()[:8]}"


def files_of(roots: Iterable[str]) -> dict[str, Path]:
    """Return the files that modules and packages consist of and import, directly or not, by the name of the module."""
    known = _modules()
    waiting = [name for root in roots for name in known if name == root or name.startswith(f"{root}.")]
    found: dict[str, Path] = {}
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = known[name]
            waiting += [one for one in _imported(known[name]) if one not in found]
    return found


@functools.cache
def _modules() -> dict[str, Path]:
    """Return all files of the package and the stages by the name of their module."""
    files = {PACKAGE.name: PACKAGE, **{stage: programs_folder() / stage for stage in STAGES}}
    found = {}
    for package, folder in files.items():
        for path in folder.rglob("*.py"):
            if "programs" not in path.relative_to(folder).parts:
                parts = (package, *path.relative_to(folder).with_suffix("").parts)
                found[".".join(part for part in parts if part != "__init__")] = path
    return found


@functools.cache
def _imported(path: Path) -> tuple[str, ...]:
    known = _modules()
    return tuple({name for name in _names(path) if name in known})


def _names(path: Path) -> Iterator[str]:
    """Return modules that a file may import: each with the packages around it."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            full = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in full:
            parts = name.split(".")
            yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "unknown"
