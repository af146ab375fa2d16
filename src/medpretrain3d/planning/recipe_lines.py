"""Lines of a recipe: comments of one width, and values as YAML reads them back."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence

import yaml

WIDTH = 116


def fact(keyword: str, text: str) -> list[str]:
    """Return a keyword and lines of text beside it, as in every recipe."""
    return comment(f"{keyword:<11}{text}", hang=11)


def command(keyword: str, text: str) -> str:
    """Return a keyword and a command beside it on one line, from which it can be copied."""
    return f"# {keyword:<11}{''.join(one if one.isprintable() else '?' for one in text)}"


def comment(text: str, indent: int = 0, hang: int = 0) -> list[str]:
    """Return lines of a comment, of which all but the first are moved in by `hang`."""
    start = " " * indent + "# "
    text = "".join(one if one.isprintable() else "?" for one in text)
    width = WIDTH - len(start) - hang
    lines = textwrap.wrap(text[hang:], width, break_long_words=False, break_on_hyphens=False) or [""]
    return [f"{start}{text[:hang]}{lines[0]}".rstrip(), *(f"{start}{' ' * hang}{line}" for line in lines[1:])]


def listed_classes(names: Sequence[str]) -> str:
    """Return the first names and how many more there are."""
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def times(sizes: Iterable[int]) -> str:
    """Return `96 x 64 x 64`."""
    return " x ".join(map(str, sizes))


def flow(value: object) -> str:
    """Return nested lists, numbers and texts on one line."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(flow, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(one)}" for key, one in value.items()) + "}"
    return yaml_text(value) if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def yaml_text(value: str) -> str:
    """Return a text as YAML reads it back."""
    dumped: str = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return dumped.removesuffix("...\n").strip()


def yaml_line(value: str) -> str:
    """Return a text in quotes as YAML reads it back, on one line whatever it holds."""
    dumped: str = yaml.safe_dump(value, default_style='"', width=10_000, allow_unicode=True)
    return dumped.strip()


def plain_name(name: str) -> str:
    """Return what `run.group` can be, the name of a store where possible."""
    plain = re.sub(r"[^\w.-]+", "_", name).strip("._-")
    return yaml_text(plain or "own")
