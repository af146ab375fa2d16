"""The nearest known word to a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`, or nothing where no known word is near; case does not count."""
    by_lower = {one.lower(): one for one in sorted(known)}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f"; did you mean '{by_lower[close[0]]}'?" if close else ""
