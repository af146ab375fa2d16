from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpretrain3d.cli import main
from medpretrain3d.errors import UserError
from medpretrain3d.inference.inputs import find_scans
from medpretrain3d.store.case import CaseData, Instance
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.splits import LABEL_FRACTIONS, Splits, fraction_count, label_budget, read_splits
from medpretrain3d.store.store import Store, write_case, write_index
from medpretrain3d.store.stratify import Stratum, label_order, make_folds


def strata(num_cases, seed=0, patients=None):
    """Cases of 0 to 5 objects of two classes, of which class 1 is rare, and of 2 to 60 mm."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(num_cases):
        count = int(random.integers(0, 6))
        groups = () if patients is None else (f"patient {random.integers(patients)}",)
        labels = (random.random(count) < 0.15).astype(np.int64)
        made.append(Stratum(f"c{number:03d}", labels, random.uniform(2, 60, count), groups))
    return made


@given(st.integers(6, 40), st.integers(2, 6), st.integers(0, 5), st.one_of(st.none(), st.integers(6, 12)))
def test_every_case_validates_once_and_patients_stay_together(num_cases, num_folds, seed, patients):
    cases = strata(num_cases, seed, patients)
    num_groups = len({case.groups or (case.case_id,) for case in cases})
    if num_groups < num_folds:
        with pytest.raises(UserError, match=f"give 2 to {num_groups} folds"):
            make_folds(cases, num_folds, seed)
        return
    folds = make_folds(cases, num_folds, seed)
    assert sorted(case_id for fold in folds for case_id in fold["val"]) == [case.case_id for case in cases]
    patient_of = {case.case_id: case.groups or (case.case_id,) for case in cases}
    for fold in folds:
        assert set(fold["train"]) | set(fold["val"]) == set(patient_of)
        assert not {patient_of[one] for one in fold["train"]} & {patient_of[one] for one in fold["val"]}
    sizes = [len(fold["val"]) for fold in folds]
    assert min(sizes) > 0
    assert patients is not None or max(sizes) - min(sizes) <= 1


def test_folds_and_order_are_the_same_whatever_the_order_of_the_cases():
    cases = strata(40, patients=25)
    assert make_folds(cases, 4, seed=3) == make_folds(cases[::-1], 4, seed=3)
    assert label_order(cases, seed=3) == label_order(cases[::-1], seed=3)
    assert label_order(cases, seed=3) != label_order(cases, seed=4)


def test_folds_are_more_even_in_class_number_and_size_than_chance():
    """Of forty cases eight hold the rare class, eight large objects, eight nothing: each fold gets two of each."""
    kinds = ["rare"] * 8 + ["large"] * 8 + ["none"] * 8 + ["usual"] * 16
    values = {"rare": ([1], [10.0]), "large": ([0], [50.0]), "none": ([], []), "usual": ([0, 0], [8.0, 9.0])}
    cases = []
    for number, kind in enumerate(np.random.default_rng(0).permutation(kinds)):
        labels, sizes = values[str(kind)]
        cases.append(Stratum(f"{number:02d}{kind}", np.array(labels, dtype=np.int64), np.array(sizes)))
    for fold in make_folds(cases, 4):
        assert Counter(case_id[2:] for case_id in fold["val"]) == {"rare": 2, "large": 2, "none": 2, "usual": 4}
    first_half = Counter(case_id[2:] for case_id in label_order(cases)[:20])
    assert all(abs(first_half[kind] - kinds.count(kind) / 2) <= 1 for kind in values)


@given(st.lists(st.integers(0, 99), min_size=1, max_size=40, unique=True), st.randoms(use_true_random=False))
def test_label_budgets_are_nested(numbers, random):
    train = [f"c{number}" for number in numbers]
    order = random.sample(train, random.randint(0, len(train)))
    budgets = [set(label_budget(train, order, fraction_count(len(train), share))) for share in LABEL_FRACTIONS]
    assert all(small <= large for small, large in pairwise(budgets))
    assert budgets[-1] == set(train)
    assert set(label_budget(train, order, 1)) == ({order[0]} if order else budgets[0])


def test_fractions_are_rounded_up_and_checked():
    assert [fraction_count(200, share) for share in LABEL_FRACTIONS] == [2, 10, 20, 50, 100, 200]
    assert fraction_count(30, 0.01) == 1
    assert fraction_count(30, 0.1) == 3  # 0.1 * 30 is 3.0000000000000004
    with pytest.raises(UserError, match="wanted a share above 0 and at most 1"):
        fraction_count(30, 10)
    with pytest.raises(UserError, match="num_train_cases 3: there are 2"):
        label_budget(["a", "b"], [], 3)


@pytest.fixture
def store(tmp_path):
    """Ten labelled cases of five patients, one for testing, one unlabelled; cases 0 and 9 are the same scan."""
    rows = []
    for number in range(10):
        image = np.full((1, 6, 6, 6), number % 9, np.int16)
        objects = [Instance(0, 0, (1.0, 1, 1, 3, 3, 3))] * (number % 3)
        grid = Grid((6, 6, 6), np.eye(4))
        patient = f"p{number // 2}" if number < 9 else None
        rows.append(
            write_case(tmp_path / "s", CaseData(f"c{number}", image, grid, grid, "f", objects, patient=patient))
        )
    write_index(tmp_path / "s", ["lesion"], None, rows, {"test": ["c2"], "unlabelled": ["c3"], "val": ["c5"]})
    return tmp_path / "s"


def test_the_split_command_writes_folds_that_a_store_and_prepare_keep(store, capsys):
    named = Store(store).splits
    assert main(["split", str(store), "--folds", "3"]) == 0
    told = capsys.readouterr().out
    assert told.count("fold ") == 4
    assert "label budgets of fold 0, each part of the next: 1% 1, 5% 1" in told
    first = (store / "splits.json").read_text(encoding="utf-8")
    splits = Store(store).all_splits
    assert splits.named == named
    assert len(splits.folds) == 3
    for fold in splits.folds:
        assert set(fold["train"]) | set(fold["val"]) == {f"c{number}" for number in (0, 1, 4, 5, 6, 7, 8, 9)}
        together = [("c0", "c1", "c9"), ("c4", "c5"), ("c6", "c7")]  # c9 is the scan of c0
        assert all(len(set(group) & set(fold["val"])) in (0, len(group)) for group in together)
    assert splits.fold(1)["test"] == ("c2",)
    with pytest.raises(UserError, match="fold 3: the store has 3 folds, counted from 0"):
        splits.fold(3)
    main(["split", str(store), "--folds", "3"])
    assert (store / "splits.json").read_text(encoding="utf-8") == first
    # Preparing again writes the index anew and keeps the folds, without cases that are gone.
    rows = list(Store(store).entries.values())
    split_of = {name: list(ids) for name, ids in named.items()}
    write_index(store, ["lesion"], None, rows, split_of)
    assert Store(store).all_splits == splits
    kept = write_index(store, ["lesion"], None, rows[:-1], {"test": ["c2"], "unlabelled": ["c3"]})
    assert kept.splits == Store(store).all_splits
    left = [{name: tuple(one for one in ids if one != "c9") for name, ids in fold.items()} for fold in splits.folds]
    assert list(kept.splits.folds) == left
    assert [note.partition(": ")[2] for note in kept.notes] == [
        "1 case that the data set has for training stay held out, as that file says, first 'c5' in val; remove the "
        "file to take the splits of the data set",
        "1 case left its folds, first 'c9'",
    ]


def test_damaged_folds_are_named(store):
    document = json.loads((store / "splits.json").read_text(encoding="utf-8"))
    for fold, message in [
        ({"train": ["c0", "gone"], "val": ["c1"]}, "names 1 cases the store does not have, first 'gone'"),
        ({"train": ["c0", "c1"], "val": ["c1"]}, "case 'c1' is in 'train' and in 'val'"),
    ]:
        (store / "splits.json").write_text(json.dumps({**document, "folds": [fold]}))
        with pytest.raises(UserError, match=message):
            Store(store)


def test_a_store_without_a_file_trains_on_everything(tmp_path):
    assert read_splits(tmp_path, {"a": 0, "b": 0}) == Splits({"train": ("a", "b")})


def test_finetuning_takes_a_fold_and_a_fraction(store):
    from finetune.datamodule import FinetuneData

    def data(**changes):
        return FinetuneData(str(store), (4, 4, 4), 1, **changes)

    with pytest.raises(UserError, match="fold 0: the store has no folds; write others with `medpretrain3d split"):
        data(fold=0)
    main(["split", str(store), "--folds", "4"])
    folds = Store(store).all_splits.folds
    for number in range(4):
        whole = data(fold=number)
        assert tuple(case.case_id for case in whole.val_cases) == folds[number]["val"]
        assert [case.case_id for case in whole.test_cases] == ["c2"]
        half = data(fold=number, label_fraction=0.5)
        ids = {case.case_id for case in half.train_cases}
        assert ids < {case.case_id for case in whole.train_cases}
        assert (half.metadata().fold, half.metadata().num_train_cases) == (number, len(ids))
    with pytest.raises(UserError, match=r"data.label_fraction 0.5 and data.num_train_cases 2: give one"):
        data(fold=0, label_fraction=0.5, num_train_cases=2)


class Compared(str):
    """A name that counts how often it is compared with another."""

    num = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        Compared.num += 1
        return str.__eq__(self, other)


def test_the_labeled_cases_of_a_large_store_are_looked_up_not_searched(monkeypatch):
    """Looking each case up in the list of those without labels took 12 s for 50,000 cases."""
    ids = tuple(Compared(f"patient_{number:06d}") for number in range(2_000))
    named = {"train": ids[:1_000], "unlabelled": ids[1_000:]}
    corpus = Corpus.__new__(Corpus)
    corpus.stores = [SimpleNamespace(case_ids=ids, all_splits=SimpleNamespace(fold=lambda fold: named))]
    monkeypatch.setattr(Compared, "num", 0)
    labeled = [case.case_id for case in corpus.cases("labeled")]
    assert Compared.num <= 2 * len(ids)
    assert labeled == list(ids[:1_000])


def test_over_all_folds_every_labeled_case_is_tested_once(store):
    from finetune.datamodule import FinetuneData

    def tested(fold):
        data = FinetuneData(str(store), (4, 4, 4), 1, fold=fold, test_on="held_out")
        return [case.case_id for case in data.test_cases]

    main(["split", str(store), "--folds", "4"])
    in_all = sorted(case for fold in range(4) for case in tested(fold))
    assert in_all == ["c0", "c1", "c4", "c5", "c6", "c7", "c8", "c9"]
    document = json.loads((store / "splits.json").read_text(encoding="utf-8"))
    own = {"train": ["c0", "c1"], "val": ["c4"], "test": ["c6", "c7"]}
    (store / "splits.json").write_text(json.dumps({**document, "folds": [own]}))
    assert tested(0) == ["c6", "c7"]
    with pytest.raises(UserError, match=r"data.test_on held_out: is of a fold, got data.fold null"):
        tested(None)


def test_commands_take_the_cases_of_a_fold(store, tmp_path, capsys):
    main(["split", str(store), "--folds", "4"])
    folds = Store(store).all_splits.folds
    for number, fold in enumerate(folds):
        assert main(["targets", str(store), "--split", "val", "--fold", str(number), "-o", str(tmp_path / "t")]) == 0
        assert [one["case"] for one in json.loads((tmp_path / "t").read_text())["targets"]] == list(fold["val"])
        scans = find_scans([store], "val", number)
        assert tuple(scan.case for scan in scans) == fold["val"]
        assert [scan.case for scan in find_scans([store], "test", number)] == ["c2"]
    for arguments, message in [
        (["--fold", "4", "--split", "val"], "fold 4: the store has 4 folds, counted from 0"),
        (["--fold", "1", "--split", "all"], "fold 1 with split 'all': wanted one of its splits"),
        (["--fold", "1", "--split", "unlabeled"], "split 'unlabeled' has no case in fold 1 of s; splits with cases"),
        (["--fold", "-1", "--split", "val"], "-1"),
    ]:
        assert main(["targets", str(store), *arguments, "-o", str(tmp_path / "none")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_split_of_no_store_is_refused(store, tmp_path, capsys):
    (tmp_path / "scan.nii.gz").touch()
    for split, fold in (("val", None), ("all", 1)):
        with pytest.raises(UserError, match="only stores have splits, and no store is named"):
            find_scans([tmp_path / "scan.nii.gz"], split, fold)
    assert main(["tune", str(tmp_path / "bundle"), "--fold", "1"]) == 2
    assert "--fold is of a store; name it with --store" in capsys.readouterr().err
