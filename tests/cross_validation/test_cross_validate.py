"""The runs of all folds as one result, on runs that the tests write: no network is trained."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from finetune.datamodule import FinetuneData
from medpretrain3d.cli import main
from medpretrain3d.cross_validation import find_fold_runs, merge_out_of_fold
from medpretrain3d.cross_validation.candidates import read_candidates
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import mean_average_precision
from medpretrain3d.evaluation.detection import MAP_KEY
from medpretrain3d.inference import InferenceConfig, load_members
from medpretrain3d.inference.cached_detections import CachedDetections
from medpretrain3d.inference.sweep import best, sweep
from medpretrain3d.loading.hard_negatives import HardNegatives
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.store import Store, write_index
from tests.cross_validation.results import FOLDS, NUM_CASES, NUM_FOLDS, box, write_run, write_store


@pytest.fixture
def store(tmp_path):
    return write_store(tmp_path / "store")


@pytest.fixture
def runs(tmp_path, store):
    """A run for each fold; in the cases of fold 2 there is a false finding of 2 mm."""
    small = [((20.0, 20.0, 20.0, 21.0, 21.0, 21.0), 0.95)]
    return [write_run(tmp_path / "cv" / f"fold_{k}", store, k, small if k == 2 else ()) for k in range(NUM_FOLDS)]


def test_every_case_is_scored_once_by_the_fold_that_held_it_out(runs, store, tmp_path, capsys):
    assert main(["cross-validate", str(tmp_path / "cv"), "-o", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    out = tmp_path / "out"
    document = json.loads((out / "predictions.json").read_text())
    predictions = document["predictions"]
    assert document["detectors"][1] == {"fold": 1, "cases": FOLDS[1]["val"], "train_cases": FOLDS[1]["train"]}
    assert document["voxels"] == {case: store.entries[case]["voxels"] for case in store.case_ids}
    false = HardNegatives.among(read_candidates(out / "predictions.json", store), Corpus([store.path]).cases("all"), 1)
    assert sorted(ref.case_id for ref in false.cases) == FOLDS[2]["val"]
    assert false.boxes[0].tolist() == [20, 20, 20, 21, 21, 21]
    assert [one["case"] for one in predictions] == [f"c{number}" for number in range(NUM_CASES)]
    np.testing.assert_allclose(predictions[3]["boxes"][0], np.array(box(3)) * 2 - 1)
    metrics = json.loads((out / "metrics.json").read_text())
    folds = metrics["cross_validation"]
    assert [(row["fold"], row["num_cases"], row["num_targets"]) for row in folds["folds"]] == [
        (0, 3, 3),
        (1, 3, 3),
        (2, 3, 3),
    ]
    # Folds 0 and 1 find what there is. Fold 2 has a false finding before each true one, and its merging is chosen by
    # cases without any, so it stays: a precision of 1/2 at every recall.
    values = [row[MAP_KEY] for row in folds["folds"]]
    assert values == pytest.approx([1.0, 1.0, 0.5], abs=0.01)
    assert folds["mean"][MAP_KEY] == pytest.approx(np.mean(values))
    assert folds["std"][MAP_KEY] == pytest.approx(np.std(values, ddof=1))
    assert metrics[MAP_KEY] < 1
    assert folds["folds"][2]["inference"]["min_size_mm"] == 0
    assert folds["folds"][0]["inference"]["min_size_mm"] > 0
    assert "mean ± std" in told
    # A box at the place of each training object hits the held-out one beside it by 4 x 4 x 3 of 80 voxels: IoU 0.6.
    prior = metrics["trivial_baselines"]["position prior"]
    assert 0 < prior[MAP_KEY] < 1
    assert prior["AP_IoU_0.10_MaxDet_100"] >= prior["AP_IoU_0.50_MaxDet_100"]
    assert re.search(rf"position prior +{prior[MAP_KEY]:.3f}", told)
    assert "random boxes" in told
    members = load_members(out / "ensemble")
    assert len(members) == NUM_FOLDS
    assert members[0].inference.min_size_mm > 0  # chosen by all cases, those of fold 2 among them
    points = members[0].operating_points
    made_with = json.loads((out / "ensemble" / "bundle.json").read_text())["provenance"]["cross_validation"]
    assert made_with["predictions_sha256"] == hashlib.sha256((out / "predictions.json").read_bytes()).hexdigest()
    assert (points.num_scans, points.document["scans"]) == (NUM_CASES, "out of fold")
    assert points.at_rate(1 / 3).sensitivity == 1  # with the three false findings of fold 2
    files = ["--predictions", str(out / "predictions.json"), "--targets", str(out / "targets.json")]
    evaluate = ["evaluate", *files, "--folds", str(store.path), "--bootstrap", "10"]
    assert main([*evaluate, "-o", str(tmp_path / "again.json")]) == 0
    again = json.loads((tmp_path / "again.json").read_text())["cross_validation"]
    assert again["mean"] == folds["mean"]
    assert [row[MAP_KEY] for row in again["folds"]] == values
    assert main([*evaluate, "--protocol", "case-level"]) == 2
    assert "--folds is of protocol detection or centre" in capsys.readouterr().err
    before = (out / "metrics.json").read_bytes()
    assert main(["cross-validate", *map(str, runs[::-1]), "-o", str(out)]) == 0
    assert (out / "metrics.json").read_bytes() == before
    capsys.readouterr()
    assert main(["cross-validate", *map(str, runs), "-o", str(out), "--no-ensemble"]) == 0
    assert f"note: {out / 'ensemble'} is of an earlier call, and stays" in capsys.readouterr().out


def test_merging_is_chosen_by_the_cases_of_other_folds(runs, store):
    found = merge_out_of_fold(find_fold_runs(runs))
    seen = [CachedDetections.load(folder / "validation" / "sightings.safetensors").cases for folder in runs]

    def score(detections, targets):
        return mean_average_precision(detections, targets, ("nodule",))

    for fold in range(NUM_FOLDS):
        others = [case for other in range(NUM_FOLDS) if other != fold for case in seen[other]]
        assert found.configs[fold] == best(sweep(others, InferenceConfig(), score)).config
    assert found.config == best(sweep([case for one in seen for case in one], InferenceConfig(), score)).config
    untuned = merge_out_of_fold(find_fold_runs(runs), is_tuned=False)
    assert set(untuned.configs) == {untuned.config} == {InferenceConfig()}


def test_what_another_detector_saw_is_refused(runs):
    path = runs[1] / "validation" / "sightings.safetensors"
    replace(CachedDetections.load(path), weights_sha256=64 * "0").save(path)
    with pytest.raises(UserError, match=r"fold_1.* is what weights 000000000000 saw"):
        merge_out_of_fold(find_fold_runs(runs))


def test_runs_that_are_no_cross_validation_are_refused(runs, store, tmp_path):
    def refused(message, folder, **changes):
        shutil.rmtree(tmp_path / "cv" / "fold_1")
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        other = write_run(tmp_path / "other" / "fold_1", store, changes.pop("fold", 1), **changes)
        with pytest.raises(UserError, match=message):
            find_fold_runs([tmp_path / "cv", other])
        shutil.copytree(tmp_path / "other" / "fold_1", tmp_path / "cv" / "fold_1")

    config = {"model": {"optim": {"lr": 0.1}}}
    refused("differ in model.optim.lr: None and 0.1; wanted runs of one recipe", 1, config=config)
    refused("are both of fold 0; name one of them", 1, fold=0)
    refused("has not ended; start it again", 1, finished=False)
    refused("differ in method: scratch and mae", 1, method="mae")
    refused("differ in steps: 8 and 9", 1, steps=9)
    refused("differ in samples of a step: 4 and 8, which data.batch_size", 1, global_batch_size=8)
    refused("differ in data_fingerprint", 1, data_fingerprint="0")
    refused("is a run of stage pretrain", 1, stage="pretrain")
    write = tmp_path / "cv" / "fold_1"
    shutil.rmtree(write)
    with pytest.raises(UserError, match=r"has 3 folds, and no run is of fold 1; train with --data.fold"):
        find_fold_runs([tmp_path / "cv"])
    with pytest.raises(UserError, match="holds no run"):
        find_fold_runs([tmp_path / "store"])


def test_what_may_differ_between_folds_may(runs, store, tmp_path):
    shutil.rmtree(runs[1])
    document = {"seed_everything": 7, "run": {"name": "x"}, "model": {"init_from": "other"}}
    document["data"] = {"store": str(store.path), "fold": 1, "patch": [24, 24, 24], "num_workers": 3}
    write_run(runs[1], store, 1, config=document, num_val_cases_seen=2, num_val_cases_seen_with_labels=1)
    found = find_fold_runs(runs)
    assert [metadata.fold for metadata in found.metadata] == [0, 1, 2]
    assert "pretrained on 2 of 9 cases that their folds hold out, 1 of them with labels" in found.notes()[0]


def test_the_result_says_what_has_met_the_cases_that_it_is_scored_on(tmp_path, store, capsys):
    entries = list(store.entries.values())
    entries[0]["patient"] = entries[3]["patient"] = "p"  # both of fold 0
    entries[1]["patient"] = entries[5]["patient"] = "q"  # of folds 1 and 2
    write_index(store.path, ["nodule"], None, entries, {"train": list(store.entries)}, folds=FOLDS)
    store = Store(store.path)
    facts = {"weights": "best", "num_unlabeled_volumes": 4, "num_val_cases_seen": 1}
    for k in range(NUM_FOLDS):
        write_run(tmp_path / "cv" / f"fold_{k}", store, k, **facts)
    assert main(["cross-validate", str(tmp_path / "cv"), "-o", str(tmp_path / "out"), "--no-ensemble"]) == 0
    notes = json.loads((tmp_path / "out" / "metrics.json").read_text())["cross_validation"]["notes"]
    assert "without labels on 3 of 9 cases that their folds hold out, 0 of them with labels" in notes[0]
    assert "2 of 9 cases are held out by a fold that trains on another scan of their patient or on a copy, " in notes[1]
    assert "first 'c1'" in notes[1]
    assert "model.weights best: each fold's weights were chosen by the cases that it is scored on" in notes[2]
    assert f"note: {notes[2]}" in capsys.readouterr().out


@pytest.mark.parametrize("label_seed", [None, 3])
def test_a_run_with_fewer_labels_and_no_test_was_trained_on_its_budget_alone(tmp_path, store, label_seed):
    data = {"store": str(store.path), "fold": 0, "patch": [24, 24, 24], "label_seed": label_seed}
    for k in range(NUM_FOLDS):
        config = {"data": {**data, "fold": k, "num_train_cases": 2}}
        write_run(tmp_path / "cv" / f"fold_{k}", store, k, config=config, num_train_cases=2)
    runs = find_fold_runs([tmp_path / "cv"])
    for k in range(NUM_FOLDS):
        run = FinetuneData(str(store.path), (24, 24, 24), 1, fold=k, num_train_cases=2, label_seed=label_seed)
        assert runs.training_cases(k) == [ref.case_id for ref in run.train_cases]
        assert len(runs.training_cases(k)) == 2


def test_a_step_of_the_same_samples_may_be_made_on_other_devices(runs, store):
    def found_with(data, trainer):
        shutil.rmtree(runs[1])
        data = {"store": str(store.path), "fold": 1, "patch": [24, 24, 24], **data}
        write_run(runs[1], store, 1, config={"data": data, "trainer": trainer})
        return find_fold_runs(runs)

    # As a run that went on on two devices after the others had one: their steps are the same.
    found_with({}, {"devices": 2, "accumulate_grad_batches": 2})
    found_with({"batch_size": 2}, {"devices": 2})
    with pytest.raises(UserError, match=r"differ in data.batch_size: None and 2; wanted runs of one recipe"):
        found_with({"batch_size": 2, "unlabeled": "more"}, {"devices": 2})  # half as many of those without labels


def test_detections_of_other_cases_are_refused(runs, store, tmp_path):
    place = runs[1] / "validation" / "sightings.safetensors"
    shutil.copyfile(runs[0] / "validation" / "sightings.safetensors", place)
    with pytest.raises(UserError, match=r"holds 3 cases, which are not the 3 that fold 1 .* holds out; train the fold"):
        merge_out_of_fold(find_fold_runs(runs))
    write_index(store.path, ["nodule"], None, list(store.entries.values())[:-1], {}, folds=())
    with pytest.raises(UserError, match="is not what the runs were trained on"):
        find_fold_runs(runs)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "got neither runs nor --config"),
        (["runs", "--config", "smoke"], "got both runs and --config"),
        (["--config", "smokee"], "no recipe of finetune has that name; did you mean 'smoke'?"),
        (["--config", "smoke"], "no store, and nothing in the study makes it; run `medpretrain3d prepare`"),
    ],
)
def test_folds_are_of_runs_or_of_a_recipe(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["cross-validate", *words, "-o", "out"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
