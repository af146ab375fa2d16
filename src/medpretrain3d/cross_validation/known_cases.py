"""Cases that a detector knows again: the same scan, a copy of it under another name, another scan of its patient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from medpretrain3d.store.store import Store


def known_by(store: Store, cases: Sequence[str]) -> set[tuple[str, str]]:
    """Return by what cases, copies of them and other scans of their patients are known: of those sets meet."""
    return set(_marks(store, cases))


def _marks(store: Store, cases: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield by what the same case, a copy of it and another scan of its patient are known."""
    for case in cases:
        yield "case", case
        if case in store.entries:
            row = store.entries[case]
            yield "voxels", str(row["voxels"])
            if row["patient"] is not None:
                yield "patient", str(row["patient"])
