"""Several stores read as one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medpretrain3d.data.crops import CaseRef
from medpretrain3d.data.store import Store
from medpretrain3d.errors import UserError


class Corpus:
    """Cases of one or more stores of the same spacing.

    Args:
        paths: store folders.

    Raises:
        UserError: no path, a folder that is no store, or stores of different spacing.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        if not paths:
            raise UserError("data.store is empty; name at least one store written by `medpretrain3d prepare`")
        self.stores = [Store(path) for path in paths]
        spacings = {store.spacing_mm for store in self.stores}
        if len(spacings) > 1:
            raise UserError(
                f"stores of different spacing: {', '.join(f'{s.path}: {s.spacing_mm}' for s in self.stores)}; "
                "prepare them with the same --spacing-mm"
            )
        self.spacing_mm = self.stores[0].spacing_mm

    @property
    def name(self) -> str:
        """Names of the stores, joined."""
        return "+".join(store.path.name for store in self.stores)

    @property
    def fingerprint(self) -> str:
        """Changes when any voxel or label of any case does."""
        joined = "\n".join(store.fingerprint for store in self.stores)
        return hashlib.sha256(joined.encode()).hexdigest() if len(self.stores) > 1 else joined

    def cases(self, split: str) -> list[CaseRef]:
        """Cases of a split of every store; `all` for all cases.

        Raises:
            UserError: none of the stores has such a split, or it is empty.
        """
        found = [
            CaseRef(store, case_id)
            for store in self.stores
            for case_id in (store.case_ids if split == "all" else store.splits.get(split, ()))
        ]
        if not found:
            known = sorted({name for store in self.stores for name, ids in store.splits.items() if ids})
            raise UserError(f"split '{split}' has no case in {self.name}; splits with cases: {', '.join(known)}")
        return found

    def hold_out(self, split: str, count: int) -> tuple[list[CaseRef], list[CaseRef]]:
        """Cases to train on, and `count` to look at, chosen once and for all (not by the run's seed).

        Copies of a case that is held out, in whatever store and under whatever name, are not trained on.

        Raises:
            UserError: nothing would be left to train on.
        """
        cases = self.cases(split)
        if count >= len(cases):
            raise UserError(f"num_val_cases {count} leaves none of the {len(cases)} cases to train on; lower it")
        held_out = set(nested_order(len(cases))[:count])
        seen = {cases[index].voxels for index in held_out}
        train = [case for index, case in enumerate(cases) if index not in held_out and case.voxels not in seen]
        if not train:
            raise UserError(
                f"num_val_cases {count} leaves none of the {len(cases)} cases to train on but copies; lower it"
            )
        return train, [cases[index] for index in sorted(held_out)]


def nested_order(count: int, seed: int = 0) -> list[int]:
    """A fixed random order: its first n are part of its first n + 1, so small label budgets nest in large ones."""
    return [int(index) for index in np.random.Generator(np.random.Philox(seed)).permutation(count)]
