"""Texts of strangers inside a page of Markdown: shown as they are, and never headings, HTML or links."""

from __future__ import annotations

import html
import re

from medpretrain3d.errors import printable

_SIGNS = re.compile(r"[\\`*\[\]|~]|(?<!\w)_|_(?!\w)|^[#+=:>-]|(?<=^\d)[.)]|(?<=^\d\d)[.)]")


def plain(text: object) -> str:
    """Return a text on one line, in which nothing is Markdown or HTML."""
    line = printable(" ".join(str(text).split()))
    return html.escape(_SIGNS.sub(r"\\\g<0>", line), quote=False)


def code(text: object) -> str:
    """Return a text on one line between backticks; with signs of Markdown or HTML in it as `plain` has it."""
    line = printable(" ".join(str(text).split()))
    return plain(line) if re.search(r"[`<>&\[\]|]", line) else f"`{line}`"


def identifier(text: object) -> str:
    """Return a text as a scalar of a page's front matter: quoted unless it is one plain word."""
    line = printable(" ".join(str(text).split()))
    is_plain = re.fullmatch(r"[A-Za-z][\w.+-]*", line) is not None
    return line if is_plain else '"' + line.replace("\\", "\\\\").replace('"', '\\"') + '"'
