"""Cases that hold the same voxels under different names: found by hash, and never on both sides of a split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

DUPLICATES = "duplicates"
"""Split of the copies that nothing uses."""
_PRECEDENCE = ("test", "val", "train")


def same_voxels(voxels: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Return groups of two and more cases with the same voxels.

    Args:
        voxels: hash of each case's voxels, `store.entries[case_id]["voxels"]`.
    """
    groups = defaultdict(list)
    for case_id, digest in voxels.items():
        groups[digest].append(case_id)
    return sorted(tuple(sorted(ids)) for ids in groups.values() if len(ids) > 1)


def keep_apart(splits: Mapping[str, Sequence[str]], groups: Sequence[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Splits in which each group is in one split only, the first of test, val, train and others that has a part of it.

    Copies in later splits go to `duplicates`: a test set stays what it is, and training loses nothing but a leak.
    """
    home = {case_id: name for name, ids in splits.items() for case_id in ids}
    for group in groups:
        names = sorted({home[case_id] for case_id in group if case_id in home} - {DUPLICATES}, key=_rank)
        for case_id in group:
            if names and home.get(case_id, names[0]) != names[0]:
                home[case_id] = DUPLICATES
    kept = {name: tuple(case_id for case_id in ids if home[case_id] == name) for name, ids in splits.items()}
    moved = tuple(sorted(case_id for case_id, name in home.items() if name == DUPLICATES))
    return {**kept, DUPLICATES: moved} if moved else kept


def _rank(name: str) -> tuple[int, str]:
    return (_PRECEDENCE.index(name) if name in _PRECEDENCE else len(_PRECEDENCE), name)
