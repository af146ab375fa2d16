"""YAML, read safely: data only, no key twice, and no document that grows when its aliases are followed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from medpretrain3d.documents.text import read_text
from medpretrain3d.errors import UserError

MAX_BYTES = 2**20
"""A recipe of more than 1 MiB is none."""
MAX_NODES = 100_000
"""Values of a document once every alias is replaced by what it stands for: nine lines can stand for 10^9."""
MAX_DEPTH = 64
SAFE_LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # without libyaml a hundred times slower


def parse_yaml(text: str, loader: type = SAFE_LOADER) -> Any:
    """Return the one document in a text.

    Args:
        text: YAML.
        loader: one of PyYAML's safe loaders, or derived from one.

    Raises:
        YAMLError: no YAML, a key twice in one mapping, nested too deeply, or too large once aliases are followed.
    """
    node = check_yaml(text, loader)
    if node is None:
        return None
    try:
        return loader("").construct_document(node)  # of what was checked: a third of the time was reading it again
    except (ValueError, TypeError, AttributeError, OverflowError, KeyError) as error:  # a tag that does not fit
        raise yaml.YAMLError(f"a value cannot be read ({error})") from error


def read_yaml(path: Path, advice: str, parse: Callable[[str], Any] = parse_yaml) -> Any:
    """Return the content of a YAML file, as plain data.

    Args:
        path: the file.
        advice: what to do where it cannot be read.
        parse: what makes data of its text.

    Raises:
        UserError: the file is missing or too large, no YAML in UTF-8, or see `parse_yaml`.
    """
    text = read_text(path, advice, MAX_BYTES)
    try:
        return parse(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not valid YAML ({' '.join(str(error).split())}); {advice}") from error


def check_yaml(text: str, loader: type = SAFE_LOADER) -> yaml.Node | None:
    """Refuse what `parse_yaml` refuses, before a loader or a program follows its aliases; return what it is made of."""
    if len(text) > MAX_BYTES:
        raise yaml.YAMLError(f"has {len(text):,} characters, wanted at most {MAX_BYTES:,}")
    _check_events(text, loader)
    node = yaml.compose(text, loader)
    if node is not None:
        _check_nodes(node)
    return node


def _check_events(text: str, loader: type) -> None:
    """Depth and number of values, from the stream of events: loaders themselves recurse, some of them in C."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, loader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH} levels")
        if number > 2 * MAX_NODES:
            raise yaml.YAMLError(f"more than {MAX_NODES:,} values")


def _check_nodes(root: yaml.Node) -> None:
    """Number of values with aliases followed, each node counted once; and that no key is there twice."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, depth: int) -> int:
        if depth > MAX_DEPTH:  # also where an alias lies within what it stands for
            raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH} levels, or within itself")
        if id(node) not in sizes:
            sizes[id(node)] = 1 + sum(size(child, depth + 1) for child in _children(node))
            if sizes[id(node)] > MAX_NODES:
                raise yaml.YAMLError(f"more than {MAX_NODES:,} values once its aliases are followed")
        return sizes[id(node)]

    size(root, 0)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if not isinstance(node, yaml.MappingNode):
        return []
    keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise yaml.YAMLError(f"key '{twice[:80]}' is there twice, line {node.start_mark.line + 1} and below")
    return [child for pair in node.value for child in pair]
