from __future__ import annotations

import json

import numpy as np
import pytest

from finetune.unlabeled_scans import UnlabeledScans
from medpretrain3d.errors import UserError
from medpretrain3d.store.case import CaseData, write_case
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.store import Store, write_index
from medpretrain3d.store.training_cases import training_cases
from pretrain.datamodule import PretrainData

GRID = Grid((4, 4, 4), np.eye(4))


@pytest.fixture
def make_store(tmp_path):
    """A store whose cases hold scans of their own, or the one that is named: {"id": "scan"}; patients alike."""

    def make(name, splits, folds=(), scans=None, patients=None, channels=("CT",)):
        rows = []
        for case_id in [case_id for ids in splits.values() for case_id in ids]:
            scan = (scans or {}).get(case_id, f"{name} {case_id}")
            image = np.zeros((len(channels), 4, 4, 4), np.int16)
            patient = (patients or {}).get(case_id)
            case = CaseData(case_id, image, GRID, GRID, "x.nii", voxels=scan, patient=patient)
            rows.append(write_case(tmp_path / name, case))
        write_index(tmp_path / name, ["a"], None, rows, splits, channels, folds=folds)
        return Store(tmp_path / name)

    return make


def ids(corpus, *arguments):
    return sorted(case.case_id for case in training_cases(Corpus([store.path for store in corpus]), *arguments).cases)


SPLITS = {"train": ["t1", "t2"], "val": ["v"], "test": ["x"], "unlabelled": ["u"], "extra": ["e"]}


def test_no_case_that_is_tested_or_validated_on_is_trained_on_unless_asked_for(make_store):
    corpus = [make_store("s", SPLITS)]
    assert ids(corpus) == ["e", "t1", "t2", "u"]
    assert ids(corpus, "train") == ["t1", "t2"]
    assert ids(corpus, "all") == ["e", "t1", "t2", "u", "v", "x"]
    told = {split: training_cases(Corpus([corpus[0].path]), split).notes for split in (None, "train", "all", "test")}
    assert told[None] == told["train"] == ()
    assert "TEST CASES ARE TRAINED ON: 1 test and 1 validation cases are among its 6 training cases" in told["all"][0]
    assert "1 test and 0 validation" in told["test"][0]


def test_a_store_without_splits_is_trained_on_as_a_whole(make_store):
    assert ids([make_store("corpus", {"train": ["a", "b", "c"]})]) == ["a", "b", "c"]


FOLDS = [{"train": ["a", "b"], "val": ["c"], "test": ["d"]}, {"train": ["b", "d"], "val": ["a"], "test": ["c"]}]


def test_what_any_fold_tests_is_left_out_and_with_a_fold_what_that_one_does(make_store):
    corpus = [make_store("s", {"train": ["a", "b", "c", "d"]}, FOLDS)]
    assert ids(corpus) == ["a", "b"]
    assert ids(corpus, None, 0) == ["a", "b"]
    assert ids(corpus, None, 1) == ["b", "d"]
    assert ids(corpus, "train", 1) == ["b", "d"]
    with pytest.raises(UserError, match="fold 7: the store has 2 folds"):
        ids(corpus, None, 7)


def test_where_every_case_is_tested_by_a_fold_the_fold_has_to_be_named(make_store):
    folds = [{"train": ["b"], "val": [], "test": ["a"]}, {"train": ["a"], "val": [], "test": ["b"]}]
    store = make_store("s", {"train": ["b"], "test": ["a"]}, folds)
    with pytest.raises(UserError, match=r"no case is left to train on.*set data\.fold to the fold"):
        ids([store])
    assert ids([store], None, 1) == ["a"]
    # Beside another store it would be left out without a word.
    with pytest.raises(UserError, match=r"/s: no case is left"):
        ids([make_store("other", {"train": ["o"]}), store])


def test_a_test_scan_is_not_trained_on_under_another_name_in_another_store(make_store):
    tested = make_store("s", SPLITS, scans={"x": "one scan", "v": "another"})
    other = make_store("o", {"train": ["p", "q", "r"]}, scans={"p": "one scan", "q": "another"})
    for order in ([tested, other], [other, tested]):
        assert ids(order) == ["e", "r", "t1", "t2", "u"]
        assert ids(order, "train") == ["r", "t1", "t2"]
    (note,) = training_cases(Corpus([tested.path, other.path])).notes
    assert "2 of 7 cases are left out: their scans are test or validation cases under another name, first 'p'" in note


def test_what_will_be_detected_in_later_is_excluded_for_one_fold_or_all(make_store):
    later = make_store("later", {"train": ["1", "2", "3"], "test": ["4"]}, [{"train": ["1", "2"], "val": ["3"]}])
    scans = {f"organs_{number}": f"later {number}" for number in range(1, 5)}
    organs = make_store("organs", {"train": [*scans, "own"]}, scans=scans)
    corpus = Corpus([organs.path])
    for fold in (None, 0):
        chosen = training_cases(corpus, None, fold, [later])
        assert [case.case_id for case in chosen.cases] == ["organs_1", "organs_2", "own"]
        assert "2 of 5 cases are left out: their scans are test or validation cases of data.exclude" in chosen.notes[0]
    assert len(training_cases(corpus, "all", None, [later]).cases) == 3
    only = make_store("only", {"train": ["p"]}, scans={"p": "later 4"})
    with pytest.raises(UserError, match=r"split 'train' has no case in only to train on; 1 of 1 cases are left out"):
        training_cases(Corpus([only.path]), exclude=[later])


def test_what_is_excluded_is_known_by_the_name_and_the_patient_too(make_store):
    later = make_store("later", {"train": ["1"], "test": ["nodule"]}, patients={"nodule": "Jane"})
    ids = ["nodule", "follow_up", "1", "own"]
    corpus = Corpus([make_store("corpus", {"train": ids}, patients={"follow_up": "Jane", "own": "John"}).path])
    chosen = training_cases(corpus, exclude=[later])
    assert [case.case_id for case in chosen.cases] == ["1", "own"]
    (note,) = chosen.notes
    assert note == (
        "data.exclude: 2 of 4 cases are left out: 2 have the name or the patient of one, first 'follow_up' of "
        f"{corpus.stores[0].place}"
    )


def test_other_scans_of_a_patient_who_is_tested_are_not_trained_on_unless_their_split_is_named(make_store):
    splits = {"train": ["t1", "t2"], "test": ["x"], "unlabelled": ["u1", "u2"]}
    store = make_store("s", splits, patients={"x": "Jane", "t2": "Jane", "u1": "Jane", "u2": "John"})
    other = make_store("o", {"train": ["p"]}, patients={"p": "Jane"})  # a pseudonym of another data set
    assert ids([store, other]) == ["p", "t1", "u2"]
    (note,) = training_cases(Corpus([store.path, other.path])).notes
    message = f"other scans of patients that are tested or validated on, first 't2' of {store.path}"
    assert note == f"2 of 5 cases are left out: {message}"
    assert ids([store], "train") == ["t1", "t2"]
    assert training_cases(Corpus([store.path]), "train").notes == (f"1 of 2 cases are {message}",)
    assert ids([store], "all") == ["t1", "t2", "u1", "u2", "x"]


def test_the_same_scan_is_known_again_at_another_spacing_and_in_another_file(tmp_path):
    import nibabel

    from medpretrain3d.ingest.prepare import prepare
    from medpretrain3d.ingest.prepare_options import PrepareOptions

    image = np.random.default_rng(0).integers(-1000, 1000, (12, 10, 8)).astype(np.int16)
    flipped = np.ascontiguousarray(image[::-1])
    affine = np.diag([-1.0, 1, 1, 1])
    affine[0, 3] = 11
    for name, array, frame in (("one.nii", image, np.eye(4)), ("two.nii.gz", flipped, affine)):
        (tmp_path / name.partition(".")[0]).mkdir()
        nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), frame), tmp_path / name.partition(".")[0] / name)
    prepare(tmp_path / "one", tmp_path / "native")
    prepare(tmp_path / "two", tmp_path / "coarse", PrepareOptions(spacing_mm=(2.0, 2.0, 2.0)))
    hashes = [Store(tmp_path / name).entries.values() for name in ("native", "coarse")]
    assert len({entry["voxels"] for entries in hashes for entry in entries}) == 1


def test_a_fold_never_trains_on_what_it_is_tested_on(make_store):
    store = make_store("s", {"train": ["a", "b", "c"], "test": ["x"]}, [{"train": ["a", "b"], "val": ["c"]}])
    file = store.path / "splits.json"
    document = json.loads(file.read_text())
    for part in ("train", "val"):
        fold = {"train": ["a"], "val": ["c"]}
        fold[part] = [*fold[part], "x"]
        file.write_text(json.dumps({**document, "folds": [fold]}))
        with pytest.raises(UserError, match=f"splits.json: fold 0: case 'x' is in 'test' and in '{part}'"):
            Store(store.path)
    file.write_text(json.dumps({**document, "folds": [{"train": ["a", "x"], "val": ["c"], "test": ["b"]}]}))
    assert Store(store.path).all_splits.fold(0)["train"] == ("a", "x")  # it has a test part of its own


def test_a_copy_of_a_test_case_is_taken_out_of_every_fold(make_store):
    splits, scans = {"train": ["a", "b", "c"], "test": ["x"]}, {"b": "one scan", "x": "one scan"}
    store = make_store("s", splits, [{"train": ["a", "b"], "val": ["c"]}], scans)
    assert store.all_splits.fold(0) == {"test": ("x",), "train": ("a",), "val": ("c",), "duplicates": ("b",)}
    file = store.path / "splits.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "folds": [{"train": ["a", "b"], "val": ["c"]}]}))
    with pytest.raises(UserError, match=r"fold 0: '\w' in '\w+' and '\w' in '\w+' hold the same voxels"):
        Store(store.path)


def test_stores_of_different_channels_are_not_one_corpus_but_may_all_be_excluded(make_store):
    one, two = make_store("ct", {"train": ["a", "b"]}), make_store("t1_t2", {"test": ["c"]}, channels=("T1", "T2"))
    with pytest.raises(UserError, match=r"different channels: .*/ct: 1 \(CT\), .*/t1_t2: 2 \(T1, T2\); a network has"):
        Corpus([one.path, two.path])
    places = [str(store.path) for store in (one, two)]
    data = PretrainData(places[0], (4, 4, 4), 1, num_val_cases=0, exclude=[places[1], places[0]])
    assert len(data.train_cases) == 2
    assert PretrainData(places[0], (4, 4, 4), 1, num_val_cases=0).metadata().exclude_fingerprint is None
    assert data.metadata().exclude_fingerprint not in (None, one.fingerprint, two.fingerprint)
    alone = PretrainData(places[0], (4, 4, 4), 1, num_val_cases=0, exclude=places[1:])
    assert alone.metadata().exclude_fingerprint == two.fingerprint


def test_stores_of_the_same_channels_in_another_order_are_not_read_together(make_store):
    one = make_store("one", {"train": ["a", "b"], "val": ["d"]}, channels=("T2", "ADC"))
    swapped = make_store("swapped", {"train": ["c"]}, channels=("adc", "T2"))
    other = make_store("other", {"train": ["e"]}, channels=("T1", "FLAIR"))  # names are free: nothing tells their order
    with pytest.raises(UserError, match=r"channels in another order: .*/one: 2 \(T2, ADC\), .*/swapped: 2 \(adc, T2\)"):
        Corpus([one.path, swapped.path])
    with pytest.raises(UserError, match=r"channels in another order: .*/one: .*, .*/swapped: "):
        UnlabeledScans([str(swapped.path)], None, None, one, None, [])
    for store in (one, other):
        assert Corpus([one.path, store.path])
        assert len(UnlabeledScans([str(store.path)], None, None, one, None, []).cases) in (1, 2)
