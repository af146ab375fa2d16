from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.loading.batches import generator_at
from medpretrain3d.loading.sampling import CaseOrder, CropSampler, foreground_start, object_start, uniform_start
from medpretrain3d.store.case import CaseData, Instance, write_case
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.store import Case, Store, index_row, write_index

SHAPE = (64, 96, 128)


def make_store(folder, names, shape=SHAPE, fill=None, objects=()):
    affine = np.eye(4)[[2, 1, 0, 3]]
    rows = []
    for name in names:
        image = np.full((1, *shape), -1000, np.int16)
        if fill is not None:
            image[(0, *fill)] = 40
        listed = [Instance(0, label, tuple(map(float, box))) for label, box in objects]
        rows.append(write_case(folder, CaseData(name, image, Grid(shape, affine), Grid(shape, affine), name, listed)))
    write_index(folder, ["a", "b"], (1.0, 1.0, 1.0), rows, {})
    return folder


@pytest.fixture(scope="module")
def three_stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return Corpus([make_store(folder / str(n), [f"{n}_{i}" for i in range(n)], (8, 8, 8)) for n in (1, 4, 16)])


def test_every_case_once_per_pass(three_stores):
    order = CaseOrder(three_stores.cases("all"), seed=1)
    for start in (0, 21, 42):
        assert sorted(order.index_at(start + i) for i in range(21)) == list(range(21))


@pytest.mark.parametrize(("balance", "shares"), [(0.5, (1 / 7, 2 / 7, 4 / 7)), (1.0, (1 / 3, 1 / 3, 1 / 3))])
def test_data_sets_are_shown_with_their_weight(three_stores, balance, shares):
    # A case of n has weight 1/sqrt(n), so data sets of 1, 4 and 16 cases weigh 1, 2 and 4.
    order = CaseOrder(three_stores.cases("all"), 0, balance)
    shown = Counter(order.at(position).dataset for position in range(4000))
    for dataset, share in enumerate(shares):
        assert shown[dataset] / 4000 == pytest.approx(share, abs=0.03)
    assert [order.index_at(p) for p in range(9)] == [CaseOrder(order.cases, 0, balance).index_at(p) for p in range(9)]
    assert len({order.index_at(position) for position in range(4000)}) == 21


def test_another_case_is_never_the_same(three_stores):
    order = CaseOrder(three_stores.cases("all")[:3], 0)
    others = Counter(order.other_than(1, generator_at(0, position)).case_id for position in range(600))
    assert set(others) == {order.cases[0].case_id, order.cases[2].case_id}
    assert min(others.values()) > 240


def test_no_case_and_strange_balances_are_refused(three_stores):
    with pytest.raises(UserError, match="order of 0 cases"):
        CaseOrder([], 0)
    with pytest.raises(UserError, match=r"dataset_balance 1\.5"):
        CaseOrder(three_stores.cases("all"), 0, 1.5)
    with pytest.raises(UserError, match="sum of at most 1"):
        CropSampler(object_share=0.7, foreground_share=0.4)


def test_starts_stay_in_the_volume_or_cover_it(tmp_path):
    case = Corpus([make_store(tmp_path, ["x"], objects=[(0, (4, 5, 6, 10, 12, 16))])]).cases("all")[0].open()
    random = np.random.default_rng(0)
    for patch in ((8, 8, 8), (96, 96, 32)):
        starts = [uniform_start(SHAPE, patch, random) for _ in range(30)]
        starts += [object_start(case, patch, random) for _ in range(30)]
        starts += [foreground_start(case, patch, random, -500, 0.02) for _ in range(5)]
        for start in starts:
            for first, size, edge in zip(start, SHAPE, patch, strict=True):
                assert min(0, size - edge) <= first <= max(0, size - edge)


def test_foreground_crops_have_tissue_in_the_stored_block_at_their_centre(tmp_path):
    body = (slice(32, 64), slice(32, 64), slice(64, 96))  # one block of 2 x 3 x 4
    case = Corpus([make_store(tmp_path, ["x"], fill=body)]).cases("all")[0].open()
    found = 0
    for position in range(100):
        start = CropSampler(foreground_share=1.0).draw(case, (8, 8, 8), generator_at(0, position))
        found += all(inside.start <= first + 4 < inside.stop for first, inside in zip(start, body, strict=True))
    # Starts are uniform over 57 x 89 x 121, of which 32^3 count: a dozen tries fail in (1 - 0.0534)^12 = 52 % of crops.
    assert found == pytest.approx(48, abs=15)


def test_foreground_of_values_without_unit_is_no_matter_of_hu(tmp_path):
    random, grid = np.random.default_rng(0), Grid(SHAPE, np.eye(4)[[2, 1, 0, 3]])
    image = random.integers(0, 60, (1, *SHAPE)).astype(np.int16)  # all of it lies above -500
    image[0, 32:64, 32:64, 64:96] += 2000
    write_case(tmp_path, CaseData("x", image, grid, grid, "x", rescale=((1.0, 0.0),)))
    write_index(tmp_path, [], (1.0, 1.0, 1.0), [index_row(Case.open(tmp_path / "cases/x").sidecar)], {}, ["T1"])
    case = Store(tmp_path).case("x")
    starts = [
        CropSampler(foreground_share=1.0).draw(case, (8, 8, 8), generator_at(0, position)) for position in range(60)
    ]
    found = sum(all(low <= first + 4 < low + 32 for first, low in zip(s, (32, 32, 64), strict=True)) for s in starts)
    assert found == pytest.approx(29, abs=12)  # 48 %, as in HU; with -500 for a threshold 5 %, as anywhere


def test_an_air_filled_volume_still_gives_a_crop(tmp_path):
    case = Corpus([make_store(tmp_path, ["x"])]).cases("all")[0].open()
    assert len(foreground_start(case, (8, 8, 8), np.random.default_rng(0), -500, 0.02)) == 3


@pytest.mark.parametrize("edge", [32, 64, 96])
def test_foreground_of_a_scan_much_smaller_than_the_patch(tmp_path, edge):
    # The middle of a crop of 64 that covers 20 voxels lies anywhere from -12 to 32, so at times outside of the scan.
    body = (slice(0, 20), slice(32, 64), slice(32, 64))
    case = Corpus([make_store(tmp_path, ["x"], (20, 64, 64), body)]).cases("all")[0].open()
    starts = [foreground_start(case, (edge, 8, 8), generator_at(0, position), -500, 0.5) for position in range(100)]
    assert all(20 - edge <= start[0] <= 0 for start in starts)
    # One chunk of four holds tissue: a dozen starts, uniform over 57 x 57, miss it in (1 - 0.26)^12 = 3 % of crops.
    assert sum(all(first + 4 >= 32 for first in start[1:]) for start in starts) >= 92


def test_sites_in_their_shares(tmp_path):
    kinds = Counter(CropSampler(0.5, 0.25).choose(generator_at(0, position)) for position in range(2000))
    assert kinds["object"] / 2000 == pytest.approx(0.5, abs=0.04)
    assert kinds["foreground"] / 2000 == pytest.approx(0.25, abs=0.04)
    random = generator_at(0, 0)
    CropSampler().choose(random)
    assert random.random() == generator_at(0, 0).random()  # nothing to decide, nothing drawn


def test_a_random_class_first_then_a_case_that_has_it(tmp_path):
    common = make_store(tmp_path / "one", [f"c{i}" for i in range(8)], (8, 8, 8), objects=[(0, (1, 1, 1, 3, 3, 3))])
    rare = make_store(tmp_path / "two", ["rare"], (8, 8, 8), objects=[(1, (1, 1, 1, 3, 3, 3))])
    order = CaseOrder(Corpus([common, rare]).cases("all"), 0)
    chosen = [order.of_random_class(generator_at(0, position)) for position in range(400)]
    assert all(ref.counts[label] == 1 for ref, label in chosen)
    assert np.mean([label for _, label in chosen]) == pytest.approx(0.5, abs=0.08)
