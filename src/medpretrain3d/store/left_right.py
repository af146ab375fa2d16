"""Classes that differ by the side of the body alone, which a mirror image would exchange."""

from __future__ import annotations

import re
from collections.abc import Sequence

SIDES = {
    "left": "right",
    "l": "r",
    "lt": "rt",
    "lft": "rgt",
    "links": "rechts",
    "gauche": "droite",
    "sinister": "dexter",
}


def left_right_pairs(classes: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of class names that are the same but for the side, the left one first.

    The word for a side stands apart (`kidney_left`, `left kidney`, `Parotid-L`) or is the end of one (`ParotidLeft`).

    Example:
        >>> from medpretrain3d.store.left_right import left_right_pairs
        >>> left_right_pairs(["parotid_right", "spinal cord", "parotid_left"])
        [('parotid_left', 'parotid_right')]
    """
    known = {_words(name): name for name in classes}
    pairs = []
    for words, name in known.items():
        for place, word in enumerate(words):
            other = known.get((*words[:place], SIDES.get(word, ""), *words[place + 1 :]))
            if other is not None:
                pairs.append((name, other))
    return pairs


def mirrored_sides(classes: Sequence[str], mirror_axes: Sequence[int]) -> str:
    """Return a sentence about classes that mirroring along the left-right axis exchanges; empty where none are."""
    pairs = left_right_pairs(classes)
    if not pairs or 2 not in mirror_axes:
        return ""
    left, right = pairs[0]
    more = f" and {len(pairs) - 1} more pairs" if len(pairs) > 1 else ""
    return (
        f"'{left}' and '{right}'{more} are classes of their own, and mirroring along the left-right axis (2) makes "
        "each of them look like the other; take that axis out of mirror_axes"
    )


def _words(name: str) -> tuple[str, ...]:
    """Return the words of a name in lower case, be they set apart by signs or by capitals."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return tuple(re.findall(r"[a-z]+|\d+", spaced.lower()))
