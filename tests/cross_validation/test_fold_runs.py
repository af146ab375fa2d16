from __future__ import annotations

from types import SimpleNamespace

import pytest

from medpretrain3d.cross_validation.fold_runs import _check_store
from medpretrain3d.errors import UserError
from medpretrain3d.run_metadata import RunMetadata


class CountedName(str):
    """A name that counts how often it is compared with another."""

    __slots__ = ()
    __hash__ = str.__hash__
    compared = 0

    def __eq__(self, other: object) -> bool:
        CountedName.compared += 1
        return str.__eq__(self, other)


def store_of(*folds: list[str]) -> SimpleNamespace:
    splits = SimpleNamespace(folds=[{"val": one} for one in folds])
    return SimpleNamespace(fingerprint="1", place="store", all_splits=splits)


def test_a_case_of_two_folds_is_found_in_time_that_grows_with_the_cases():
    names = [CountedName(f"case_{i}") for i in range(300)]
    _check_store(store_of(names[:150], names[150:]), RunMetadata(data_fingerprint="1"), [0, 1])
    assert CountedName.compared < len(names)  # every pair would be 90,000
    with pytest.raises(UserError, match="'case_7' is held out by two folds"):
        _check_store(store_of(names[:150], names[7:8]), RunMetadata(data_fingerprint="1"), [0, 1])
