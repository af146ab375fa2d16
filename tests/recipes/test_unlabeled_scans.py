"""Scans without labels beside the labeled ones, through the real entry point of stage 2."""

from __future__ import annotations

import csv
import json
import re

import pytest
import torch

from finetune import __main__ as finetune
from finetune.datamodule import FinetuneData
from medpretrain3d.backbones import VolumesSeen, read_encoder
from medpretrain3d.errors import UserError
from medpretrain3d.store.corpus import CaseRef
from medpretrain3d.store.held_cases import HeldCases
from medpretrain3d.store.store import Store

from .conftest import TINY_FINETUNE, TWO_PROCESSES, run_program, write_cubes

SPLITS = {"train": 2, "more": 3, "val": 2, "test": 2}
SURE = 0.01
"""A threshold that a network reaches which has learned nothing."""


def method(name, **arguments):
    return ["--model.semi_supervised", json.dumps({"class_path": name, "init_args": {"ramp": 0.5, **arguments}})]


TEACHER = method("MeanTeacher", score_threshold=SURE)
METHODS = {"MeanTeacher": TEACHER, "FocalMix": method("FocalMix", num_views=2)}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Cubes with a split that nobody trains on with labels; test and validation cases are in it as well."""
    return write_cubes(tmp_path_factory.mktemp("unlabeled") / "cubes", SPLITS)


@pytest.fixture(scope="module")
def fit(store, tmp_path_factory):
    """Fine-tune on the cubes; returns the run's folder."""
    root = tmp_path_factory.mktemp("runs")

    def run(name, *arguments):
        place = ["--data.store", str(store), "--run.root", str(root), "--run.group", "g", "--run.name", name]
        finetune.main(["fit", *TINY_FINETUNE, *place, "--trainer.max_steps", "4", *arguments])
        return root / "g" / name

    return run


@pytest.fixture(scope="module")
def taught(fit, store):
    return fit("taught", "--data.unlabeled", str(store), "--data.unlabeled_batch_size", "1", *TEACHER)


def test_the_weight_of_an_extended_run_jumps_and_that_is_said(fit, store, capsys):
    constant = ("--model.optim.schedule", "constant", "--data.unlabeled", str(store), *TEACHER)
    fit("extended", *constant)
    assert "the schedule is that of" not in capsys.readouterr().out
    fit("extended", *constant, "--trainer.max_steps", "16")
    # A ramp over half of the run is over after 2 of 4 steps; of 16 steps 4 are half of it, so 4 exp(-5 / 4).
    said = capsys.readouterr().out
    assert "of 16 steps now: at step 4 the weight of unlabeled crops goes from 4 to 1.146;" in said


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    return [{name: cell for name, cell in row.items() if not name.startswith("perf/")} for row in found]


def weights(folder):
    return (folder / "bundle" / "detector.safetensors").read_bytes()


def facts(folder):
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def ids(unlabeled, **options):
    data = FinetuneData(str(unlabeled[0]), (16, 16, 16), 1, unlabeled=list(map(str, unlabeled[1:])), **options)
    return sorted(case.case_id for case in data.unlabeled.cases)


def test_with_weight_0_a_run_is_the_supervised_one_to_the_byte_and_with_another_it_is_not(fit, store, taught):
    supervised = fit("supervised")
    silent = [fit(f"silent_{name}", "--data.unlabeled", str(store), *method(name, weight=0.0)) for name in METHODS]
    for folder in silent:
        assert weights(folder) == weights(supervised)
        assert rows(folder) == rows(supervised)
        for name in ("predictions.json", "metrics.json"):
            assert (folder / "test" / name).read_bytes() == (supervised / "test" / name).read_bytes()
    assert weights(taught) != weights(supervised)


def test_how_many_pseudo_boxes_were_kept_is_in_the_curves_and_in_the_log_also_none(fit, store, taught):
    kept = [int(float(row["train/num_pseudo_boxes"])) for row in rows(taught) if row["train/num_pseudo_boxes"]]
    assert len(kept) == 4
    assert sum(kept) > 0
    log = (taught / "log.txt").read_text(encoding="utf-8")
    said = re.findall(r"steps (\d) to (\d): ([\d,]+) pseudo-boxes kept in (\d) unlabeled crops", log)
    assert [(start, end, crops) for start, end, _, crops in said] == [("0", "3", "3"), ("3", "4", "1")]
    assert sum(int(number.replace(",", "")) for _, _, number, _ in said) == sum(kept)
    unsure = fit("unsure", "--data.unlabeled", str(store), *method("MeanTeacher", score_threshold=1.0, burn_in=0.5))
    assert [float(row["train/num_pseudo_boxes"] or 0) for row in rows(unsure) if row["train/loss"]] == [0.0] * 4
    assert [float(row["train/unlabeled_weight"]) for row in rows(unsure) if row["train/loss"]][:2] == [0.0, 0.0]
    assert "steps 0 to 3: 0 pseudo-boxes kept in 6 unlabeled crops" in (unsure / "log.txt").read_text(encoding="utf-8")


def test_pseudo_boxes_of_accumulated_batches_are_those_of_their_step(fit, store):
    twice = ("--trainer.accumulate_grad_batches", "2", "--trainer.max_steps", "3")
    folder = fit("twice", "--data.unlabeled", str(store), "--data.unlabeled_batch_size", "1", *twice, *TEACHER)
    kept = [float(row["train/num_pseudo_boxes"]) for row in rows(folder) if row["train/num_pseudo_boxes"]]
    (said,) = re.findall(r"steps 0 to 3: ([\d,]+) pseudo-boxes", (folder / "log.txt").read_text(encoding="utf-8"))
    assert sum(kept) == int(said.replace(",", "")) > 0


def test_run_and_bundle_say_what_was_seen_without_labels(taught, store):
    known = facts(taught)
    assert known["semi_supervised"] == "meanteacher"
    assert (known["unlabeled_corpus"], known["num_unlabeled_volumes"], known["num_held_cases_unlabeled"]) == (
        "cubes",
        5,
        0,
    )
    assert known["unlabeled_fingerprint"] == Store(store).fingerprint
    training = json.loads((taught / "bundle" / "bundle.json").read_text(encoding="utf-8"))["provenance"]["training"]
    assert training["unlabeled"] == {
        "corpus": "cubes",
        "num_volumes": 5,
        "num_held_cases": 0,
        "data_fingerprint": known["unlabeled_fingerprint"],
        "method": {
            "class_path": "medpretrain3d.semi_supervised.mean_teacher.MeanTeacher",
            "init_args": {
                "score_threshold": SURE,
                "nms_iou": 0.3,
                "regression_weight": 0.0,
                "weight": 4.0,
                "burn_in": 0.0,
                "ramp": 0.5,
            },
        },
    }
    for place in (taught / "bundle", taught / "checkpoints" / "last.ckpt"):
        encoder = read_encoder(place)
        assert encoder.card["pretraining"]["unlabeled"] == training["unlabeled"]
        seen = VolumesSeen.of_encoder(encoder)
        assert (len(seen.with_labels), len(seen)) == (2, 5), place
    voxels = {case_id: CaseRef(Store(store), case_id).voxels for case_id in ("test_0", "val_1", "more_0", "train_0")}
    assert seen.among(voxels) == ["more_0", "train_0"]
    assert seen.among(voxels, with_labels=True) == ["train_0"]


def test_no_test_or_validation_scan_is_among_them_under_whatever_name(store, tmp_path, capsys):
    own = ["more_0", "more_1", "more_2", "train_0", "train_1"]
    assert ids([store, store]) == own
    assert ids([store, store], unlabeled_split="more") == own[:3]
    assert ids([store, store], unlabeled_split="train") == own[3:]
    # The same scans in another store, all of them for training there; cubes are drawn by their names.
    other = write_cubes(tmp_path / "other", {"train": 3, "val": 1, "test": 1})
    everything = [*(f"train_{number}" for number in range(3)), "val_0", "test_0"]
    (other / "splits.json").write_text(json.dumps({"train": everything}))
    capsys.readouterr()
    assert ids([store, other]) == ["train_0", "train_1", "train_2"]
    printed = capsys.readouterr().out
    assert "data.unlabeled: 2 of 5 cases are left out: the scans of 2 are test or validation cases" in printed
    assert "3 scans of other are seen without labels" in printed
    with pytest.raises(UserError, match=r"cubes has no case to learn from without labels in split test"):
        ids([store, store], unlabeled_split="test")


def test_held_cases_are_noted_once_however_many_scans_there_are(store, monkeypatch):
    """Noted anew for each scan, they took 41 s of 50,000 scans and 1,000 held cases."""
    noted = []
    note = HeldCases.of
    monkeypatch.setattr(HeldCases, "of", staticmethod(lambda cases: noted.append(1) or note(cases)))
    assert len(ids([store, store])) == 5
    assert len(noted) == 2  # what is left out, and what of it is seen all the same


def test_whoever_asks_for_all_scans_is_told_and_every_file_says_so(fit, store, capsys):
    folder = fit("all", "--data.unlabeled", str(store), "--data.unlabeled_split", "all", *TEACHER)
    assert "TEST SCANS ARE TRAINED ON without labels: 4 of 9 are tested or validated on" in capsys.readouterr().out
    known = facts(folder)
    assert (known["num_unlabeled_volumes"], known["num_held_cases_unlabeled"]) == (9, 4)
    assert (known["num_test_cases_seen"], known["num_test_cases_seen_with_labels"]) == (2, 0)


def test_what_cannot_work_is_refused_in_a_line(fit, store, mr_store):
    with pytest.raises(UserError, match=r"data.unlabeled: nothing learns from it; set model.semi_supervised"):
        fit("r", "--data.unlabeled", str(store))
    with pytest.raises(UserError, match=r"MeanTeacher: there are no scans without labels; name a store in data.unlab"):
        fit("r", *TEACHER)
    with pytest.raises(UserError, match=r"data.unlabeled_batch_size, data.unlabeled_split: say how"):
        fit("r", "--data.unlabeled_split", "train")
    beside = ("--data.unlabeled", str(store))
    with pytest.raises(UserError, match=r"MeanTeacher: the teacher is the moving average.*EMAWeightAveraging"):
        fit("r", *beside, *TEACHER, "--trainer.callbacks", "[]")
    with pytest.raises(UserError, match=r"data.unlabeled: unit of .* is none, as in MR, of .* HU; prepare both alike"):
        fit("r", "--data.unlabeled", str(mr_store), *TEACHER)
    backbone = {"class_path": "ResEnc", "init_args": {"preset": "XXS"}}
    detr = {"class_path": "DeformableDETR", "init_args": {"backbone": backbone, "num_classes": 1}}
    for name, arguments in METHODS.items():
        with pytest.raises(UserError, match=f"{name}: got DeformableDETR, which predicts a set: none of its queries"):
            fit("r", *beside, *arguments, "--model.detector", json.dumps(detr))
    with pytest.raises(UserError, match=r"FocalMix: got turns and a patch"):
        fit("r", *beside, *method("FocalMix", turns=True), "--data.patch", "[16,16,32]")


def test_a_store_that_moved_continues_a_run_and_another_one_does_not(fit, store, taught, tmp_path):
    moved = tmp_path / "moved"
    moved.symlink_to(store)
    longer = ("--trainer.max_steps", "5", "--data.unlabeled_batch_size", "1", *TEACHER)
    with pytest.raises(UserError, match=r"the data in data\.unlabeled|what is in data\.unlabeled"):
        fit("taught", "--data.unlabeled", str(write_cubes(tmp_path / "others", {"train": 2})), *longer)
    fit("taught", "--data.unlabeled", str(moved), *longer)
    assert facts(taught)["steps"] == 5


@pytest.mark.parametrize("name", METHODS)
def test_a_run_of_two_sittings_ends_with_the_bytes_of_one(fit, store, name):
    always = method(name, ramp=0.0, **({"score_threshold": SURE} if name == "MeanTeacher" else {"num_views": 2}))
    steady = ("--data.unlabeled", str(store), *always, "--model.optim.schedule", "constant")
    whole = fit(f"whole_{name}", *steady)
    fit(f"cut_{name}", *steady, "--trainer.max_steps", "3")
    cut = fit(f"cut_{name}", *steady)
    assert weights(cut) == weights(whole)
    assert [row for row in rows(cut) if row["train/loss"]] == [row for row in rows(whole) if row["train/loss"]]
    if name == "FocalMix":
        assert all(float(row["train/num_sure_anchors"]) >= 0 for row in rows(whole) if row["train/loss"])


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one(fit, store, tmp_path):
    arguments = ["--data.unlabeled", str(store), *METHODS["FocalMix"], "--trainer.max_steps", "3"]
    place = ["--data.store", str(store), "--run.root", str(tmp_path), "--run.group", "g", "--run.name", "two"]
    run_program("finetune", *TINY_FINETUNE, *place, *arguments, *TWO_PROCESSES)
    one, two = (rows(folder) for folder in (fit("one", *arguments), tmp_path / "g" / "two"))
    for name in ("train/loss", "train/unlabeled_classification", "train/num_sure_anchors"):
        ours, theirs = ([float(row[name]) for row in found if row[name]] for found in (one, two))
        assert theirs == pytest.approx(ours, rel=1e-4)


def test_crops_on_the_device_are_those_of_the_workers(store):
    image = {}
    for place in ("workers", "device"):
        data = FinetuneData(str(store), (16, 16, 16), 2, unlabeled=str(store), augment_on=place)
        crops = data.unlabeled.crops(data.reader(), data.seed, place)
        samples = [crops[position] for position in (5, 6)]
        image[place] = samples if place == "workers" else [sample.apply() for sample in samples]
    for (one, changed, seed), (other, other_changed, other_seed) in zip(*image.values(), strict=True):
        assert torch.equal(one, other)
        assert torch.equal(changed, other_changed)
        assert seed == other_seed
