from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from medpretrain3d.cross_validation import find_fold_runs, merge_out_of_fold
from medpretrain3d.cross_validation.fold_runs import _check_store
from medpretrain3d.errors import UserError
from medpretrain3d.inference import InferenceConfig
from medpretrain3d.inference.cached_detections import CachedDetections
from medpretrain3d.run_metadata import RunMetadata
from tests.cross_validation.results import NUM_FOLDS, write_run, write_store


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


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"overlap": 0.25}, "overlap: 0.5 and 0.25"),
        ({"mirror_axes": (0,), "score_threshold": 0.1}, r"score_threshold: 0.02 and 0.1, mirror_axes: \(\) and \(0,\)"),
    ],
)
@pytest.mark.parametrize("is_tuned", [True, False])
def test_folds_that_were_looked_at_in_different_ways_are_refused(tmp_path, how, message, is_tuned):
    store = write_store(tmp_path / "store")
    runs = [write_run(tmp_path / "cv" / f"fold_{k}", store, k) for k in range(NUM_FOLDS)]
    path = runs[2] / "validation" / "sightings.safetensors"
    replace(CachedDetections.load(path), inference=InferenceConfig(**how)).save(path)
    with pytest.raises(UserError, match=f"fold_0.* and .*fold_2.* differ in inference, {message}; wanted"):
        merge_out_of_fold(find_fold_runs(runs), is_tuned)


def test_a_fold_that_holds_out_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="store: fold 1 has no validation case, which is what folds are pooled by; "):
        _check_store(store_of(["a"], []), RunMetadata(data_fingerprint="1"), [0, 1])
