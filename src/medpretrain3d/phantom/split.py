"""Training, validation and test split of the cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

VAL_SHARE = 0.2
TEST_SHARE = 0.2


def split_cases(has_nodules: Sequence[bool], rng: np.random.Generator) -> dict[str, list[int]]:
    """Case indices of "train", "val" and "test", 60/20/20, each with its share of cases with nodules.

    Cases with and without nodules are shuffled, then interleaved evenly: every stretch of the order has the same mix.
    """
    shuffled = rng.permutation(len(has_nodules))
    place = np.zeros(len(has_nodules))
    for kind in (True, False):
        of_kind = [case for case in shuffled if bool(has_nodules[case]) is kind]
        place[of_kind] = (np.arange(len(of_kind)) + 0.5) / max(len(of_kind), 1)
    order = shuffled[np.argsort(place[shuffled], kind="stable")]
    num_val, num_test = (round(share * len(order)) for share in (VAL_SHARE, TEST_SHARE))
    parts = np.split(order, [num_val, num_val + num_test])
    return {
        name: sorted(int(case) for case in part) for name, part in zip(("val", "test", "train"), parts, strict=True)
    }
