"""A layout: how the raw tree of one data set is recognised, and who reads it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.base import RawDataset
from medpretrain3d.ingest.importers.files import tree
from medpretrain3d.plugins import plugin_of
from medpretrain3d.registry import Registry


class Misplaced(UserError):
    """A file or folder of the layout is missing; the message names it."""


@dataclass(frozen=True)
class Layout:
    """One data set, or one way of laying out any data set.

    Raises:
        UserError: from `open`, see there.
    """

    name: str
    """As in `--dataset NAME`, `configs/finetune/NAME.yaml` and the heading in docs/datasets.md."""
    kind: Literal["detection", "corpus", "generic"]
    classes: tuple[str, ...]
    """Of a data set with a name; a generic layout finds them in its files."""
    licence: str
    wanted: str
    """The tree, as it is shown to whoever has another one."""
    patterns: tuple[str | Callable[[Path], bool], ...]
    """Patterns, or conditions, that each have to fit a name below the folder for the layout to be recognised by its
    tree. In patterns folders end on a slash; `**/` in front is any depth."""
    read: Callable[..., RawDataset]
    """From the folder to its cases; further arguments are options with a default."""
    is_described: bool = False
    """Of a generic layout: whether a file of it says what the objects are."""
    contradiction: Callable[[Path], str] = lambda raw: ""
    """What in a folder's content says that it is not of this layout though its names fit; empty where nothing does. A
    `-` says so without being worth telling."""

    page: str = ""
    """Markdown of its section in docs/datasets.md, below the heading: where to get it, licence, errata, tree."""

    @property
    def rank(self) -> int:
        """Layouts of a lower rank are preferred where several fit: named detection data sets, layouts with a file that
        says what the objects are, corpora, pairs of names, and any folder of scans."""
        if self.kind != "generic":
            return 0 if self.kind == "detection" else 2
        return 4 if not self.patterns else (1 if self.is_described else 3)

    @property
    def documented_in(self) -> str:
        """Location of the layout's documentation, or the plugin that it is of."""
        plugin = plugin_of(self.read.__module__)
        return f"docs/datasets.md#{self.name}" if plugin is None else f"plugin {plugin}"

    def has_option(self, name: str) -> bool:
        """Return whether `--option NAME=VALUE` means something for it."""
        return name in self._options()

    def fits(self, names: Sequence[str]) -> bool:
        """Return whether a folder with these names in it, as `list_names` gives them, looks like this layout."""
        return all(any(_fits(pattern, name) for name in names) for pattern in self.patterns)

    def shown(self, names: Sequence[str]) -> str:
        """Return the first name for each sign, by which the layout was recognised."""
        return ", ".join(
            dict.fromkeys(next(name for name in names if _fits(pattern, name)) for pattern in self.patterns)
        )

    def open(self, raw: Path, options: Mapping[str, str] | None = None) -> RawDataset:
        """List the cases of a folder.

        Args:
            raw: the folder.
            options: by name, as the command line gives them.

        Raises:
            UserError: a file is missing (the message shows the tree wanted and the tree found) or damaged, or an
                option is unknown.
        """
        try:
            dataset = self.read(raw, **self._arguments(options or {}))
            if not dataset.cases:
                raise Misplaced("no case found")
            return replace(dataset, layout=self.name)
        except Misplaced as error:
            raise UserError(
                f"{raw}: {error}; wanted for {self.name} ({self.documented_in})",
                f"{self.wanted}\nfound\n{tree(raw)}",
            ) from error

    def _arguments(self, options: Mapping[str, str]) -> dict[str, Any]:
        known = self._options()
        arguments = {}
        for name, text in options.items():
            if name not in known:
                message = ", ".join(known) or "none"
                raise UserError(f"{self.name}: unknown option {name!r}; options of this data set: {message}")
            try:
                arguments[name] = type(known[name])(text)
            except ValueError as error:
                wanted = type(known[name]).__name__
                raise UserError(f"{self.name}: option {name} is {text!r}, wanted {wanted}") from error
        return arguments

    def _options(self) -> dict[str, Any]:
        """Return the default of each option."""
        return {name: one.default for name, one in list(inspect.signature(self.read).parameters.items())[1:]}


REGISTERED: Registry[Layout] = Registry("data set")


def register_layout(layout: Layout) -> Layout:
    """Register a layout, so that `prepare` and `datasets` know it.

    Raises:
        UserError: another has its name.
    """
    REGISTERED.add(layout.name, layout, layout.read.__module__)
    return layout


def _fits(pattern: str | Callable[[Path], bool], name: str) -> bool:
    if callable(pattern):
        return pattern(Path(name))
    return PurePosixPath(f"/{name}").match(pattern[3:] if pattern.startswith("**/") else f"/{pattern}")


def require(path: Path) -> Path:
    """Return a file or folder that has to be there.

    Raises:
        Misplaced: it is not.
    """
    if not path.exists():
        raise Misplaced(f"{path.name} is missing")
    return path
