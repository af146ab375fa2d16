"""Places that are URLs: what is read of them is fetched, nothing is written there, and they hold no secret."""

from __future__ import annotations

import re
from pathlib import Path

from medpretrain3d.errors import UserError

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.+)", re.DOTALL)
_SECRET = "credentials in an address end up in command lines, configurations and logs"


def url_of(place: Path | str) -> str | None:
    """Return the URL that a place names, also where pathlib made one slash of two; None for a path.

    Raises:
        UserError: it holds a user or password, or a query such as a signature; they are not repeated.
    """
    match = _URL.fullmatch(str(place))
    if match is None:
        return None
    scheme, rest = match.groups()
    host = rest.partition("/")[0]
    if "@" in host or "?" in rest or "#" in rest:
        shown = f"{scheme}://{host.rpartition('@')[2].partition('?')[0].partition('#')[0]}/..."
        raise UserError(
            f"{shown}: {_SECRET}; give the plain address of the folder, and the rights to it by environment variables, "
            "as docs/data.md says"
        )
    return f"{scheme}://{'/' if scheme == 'file' else ''}{rest.rstrip('/')}"


def refuse_url(place: Path | str) -> None:
    """Refuse a place to write to that is a URL, of which pathlib would make a folder called `s3:`.

    Raises:
        UserError: it is one.
    """
    if url := url_of(place):
        raise UserError(f"{url}: is a URL, where nothing is written; name a folder, and upload it when it is whole")
