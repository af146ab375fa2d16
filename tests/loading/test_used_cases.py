from __future__ import annotations

from types import SimpleNamespace

from medpretrain3d.loading.used_cases import cases_fingerprint


def refs(*ids, dataset=0):
    return [SimpleNamespace(case_id=case_id, dataset=dataset) for case_id in ids]


def test_a_fingerprint_is_of_ids_their_order_and_their_use():
    of = {"train": refs("a", "b"), "val": refs("c"), "test": []}
    same = cases_fingerprint(of)
    assert same == cases_fingerprint({"val": refs("c"), "train": refs("a", "b")})
    others = [
        {**of, "train": refs("b", "a")},  # another case at each position of the run
        {**of, "train": refs("a", "b", "c"), "val": []},
        {**of, "val": refs("d")},
        {**of, "test": refs("d")},
        {**of, "unlabeled": refs("d")},
        {**of, "train": refs("a", "b", dataset=1)},
        {"train": refs("a"), "val": refs("b", "c")},
    ]
    assert len({same, *map(cases_fingerprint, others)}) == len(others) + 1
