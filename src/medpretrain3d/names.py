"""Names that become names of files: ids of cases, and whatever else is one plain name inside a folder."""

from __future__ import annotations

from medpretrain3d.errors import UserError

MAX_BYTES = 200
"""File systems take 255; endings, and what a file is called until it is complete, come on top."""


def plain_name(name: object, what: str) -> str:
    """Return the name, which can be that of a file or folder inside another folder, whatever ending is put behind it.

    Args:
        name: as it was given, or as a file states it.
        what: for messages, such as `case id`.

    Raises:
        UserError: no text, empty, hidden, too long, a path, or of characters that cannot be seen.
    """
    if not isinstance(name, str):
        raise UserError(f"{what} {name!r}: wanted a text")
    if not name or name[0] == "." or not name.isprintable() or "/" in name or "\\" in name:
        raise UserError(f"{what} {name!r}: wanted a plain folder name that does not begin with a dot")
    if name != name.strip():
        raise UserError(f"{what} {name!r}: begins or ends with a space; take it away")
    if len(name.encode()) > MAX_BYTES:
        raise UserError(f"{what} {name[:40] + '...'!r}: has {len(name.encode())} bytes, wanted at most {MAX_BYTES}")
    return name


def plain_names(names: list[str], what: str) -> list[str]:
    """Return names each of which is one as `plain_name` wants it; thousands at once.

    Raises:
        UserError: names the first that is not.
    """
    joined = "".join(names)
    # One look at all of them; where that is not enough, each is looked at.
    is_plain = (
        joined.isprintable() and not set(joined) & set(" /\\.") and max(map(len, names), default=1) <= MAX_BYTES // 4
    )
    if not (is_plain and all(names)):
        for name in names:
            plain_name(name, what)
    return names
