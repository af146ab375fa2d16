"""Stage 2 through its real entry point."""

from __future__ import annotations

import csv
import json
import re

import pytest
import torch
import yaml

from finetune import __main__ as program
from finetune.module import FinetuneModule
from medpretrain3d import cli
from medpretrain3d.backbones import ResEnc, save_encoder
from medpretrain3d.configurable import to_config
from medpretrain3d.errors import UserError
from medpretrain3d.inference import load_bundle
from medpretrain3d.inference.cached_detections import CachedDetections
from medpretrain3d.store.intensity import Window
from pretrain import __main__ as pretrain_program

from .conftest import TINY_FINETUNE, TINY_PRETRAIN, write_cubes
from .sittings import run_sitting

COUNTING = """
from finetune import __main__ as program
from finetune.module import FinetuneModule

detect = FinetuneModule.detect_raw


def told(self, case):
    print(f"\\nLOOK {case.id}", flush=True)
    return detect(self, case)


FinetuneModule.detect_raw = told
program.run()
"""


@pytest.fixture
def fit(cube_store, tmp_path):
    def run(*arguments: str, name: str = "run"):
        place = ["--data.store", str(cube_store), "--run.root", str(tmp_path), "--run.group", "g", "--run.name", name]
        program.main(["fit", *TINY_FINETUNE, *place, *arguments])
        return tmp_path / "g" / name

    return run


@pytest.fixture(scope="module")
def encoder(cube_store, tmp_path_factory):
    root = tmp_path_factory.mktemp("encoder")
    pretrain_program.main(["fit", *TINY_PRETRAIN, "--data.store", str(cube_store), "--run.root", str(root)])
    return root / "smoke" / "mae" / "encoder"


def test_a_run_ends_with_a_bundle_its_test_and_what_tuning_needs(fit, cube_store, capsys):
    folder = fit()
    assert "threads: 1 (OMP_NUM_THREADS is 1)" in capsys.readouterr().out
    assert load_bundle(folder / "bundle").classes == ("cube",)
    metrics = json.loads((folder / "test" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["num_cases"] == 2
    assert metrics["num_targets"] == {"cube": 2}
    assert len(list((folder / "test" / "pictures").glob("*.png"))) == 2
    assert len(list((folder / "test" / "slices").glob("*.png"))) == 2
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert (facts["finished"], facts["paradigm"], facts["num_train_cases"]) == (True, "scratch", 4)
    assert facts["num_threads"] == 1
    torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    seen = CachedDetections.load(folder / "validation" / "sightings.safetensors")
    assert [len(case.targets.labels) for case in seen.cases] == [1, 1]
    assert cli.main(["tune", str(folder / "bundle")]) == 0
    told = capsys.readouterr()
    assert "2 scans: mAP" in told.out
    assert "does not say which weights" not in told.err
    assert "tuning" in load_bundle(folder / "bundle").provenance


def test_tuning_on_other_scans_leaves_what_the_run_saw_in_its_validation_cases(fit, cube_store, capsys):
    folder = fit()
    kept = folder / "validation" / "sightings.safetensors"
    before = kept.read_bytes()
    capsys.readouterr()
    of_train = ["tune", str(folder / "bundle"), "--store", str(cube_store), "--split", "train", "--device", "cpu"]
    assert cli.main([*of_train, "--dry-run"]) == 0
    assert "4 of 4 scans were trained on with labels" in capsys.readouterr().err
    assert [path.name for path in kept.parent.glob("*.safetensors")] == [kept.name]
    assert cli.main(of_train) == 0
    assert kept.read_bytes() == before
    assert (kept.parent / f"sightings_{cube_store.name}_train.safetensors").is_file()
    assert load_bundle(folder / "bundle").operating_points.document["scans"] == "training"
    capsys.readouterr()
    assert cli.main(["tune", str(folder / "bundle")]) == 0
    assert load_bundle(folder / "bundle").operating_points.document["scans"] == "validation"


def test_metrics_of_the_run_and_of_its_files_agree_by_size_too(fit, tmp_path):
    folder = fit()
    out = tmp_path / "again.json"
    files = [
        "--predictions",
        str(folder / "test" / "predictions.json"),
        "--targets",
        str(folder / "test" / "targets.json"),
    ]
    assert load_bundle(folder / "bundle").operating_points.document["scans"] == "validation"
    assert cli.main(["evaluate", *files, "-o", str(out)]) == 0
    again, first = (
        json.loads(out.read_text(encoding="utf-8")),
        json.loads((folder / "test" / "metrics.json").read_text(encoding="utf-8")),
    )
    key = "mAP_IoU_0.10_0.50_0.05_MaxDet_100"
    assert again[key] == pytest.approx(first[key], abs=1e-6)
    sizes, counts = ([one[name] for one in first["size_strata"]] for name in ("from_mm", "num_targets"))
    assert sizes == [0, 6, 10, 20, 30]
    assert counts == [one["num_targets"] for one in again["size_strata"]]
    assert sum(counts) == first["num_targets"]["cube"]


def test_an_encoder_is_loaded_reported_and_remembered(fit, encoder, capsys):
    folder = fit("--model.init_from", str(encoder))
    printed = capsys.readouterr().out
    assert "backbone tensors matched; fresh: fpn" in printed
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert (facts["paradigm"], facts["method"]) == ("reconstruction", "mae")
    assert facts["pretrain_run"] == "smoke/mae"
    assert json.loads((folder / "bundle" / "bundle.json").read_text(encoding="utf-8"))["provenance"]["encoder_sha256"]


def test_the_window_of_the_pretraining_is_taken_unless_the_recipe_names_one(fit, tmp_path):
    window = to_config(Window(-900, 500))
    card = {"preprocessing": {"window": window, "spacing_mm": [1.0, 1.0, 1.0]}, "licence": "cc-by-4.0"}
    save_encoder(tmp_path / "encoder", ResEnc("XXS"), card)
    start = ("--model.init_from", str(tmp_path / "encoder"), "--trainer.max_steps", "3")
    with pytest.warns(
        UserWarning, match=r"spacing_mm of the encoder's pretraining is \[1\.0, 1\.0, 1\.0\], of this data"
    ):
        taken = fit(*start, name="taken")
    with pytest.warns(UserWarning, match="window of the encoder's pretraining is"):
        kept = fit(*start, "--data.window", json.dumps(to_config(Window(-1000, 800))), name="kept")
    bundles = [json.loads((folder / "bundle" / "bundle.json").read_text(encoding="utf-8")) for folder in (taken, kept)]
    assert [bundle["preprocessing"]["window"]["init_args"]["low_hu"] for bundle in bundles] == [-900, -1000]
    assert bundles[0]["provenance"]["encoder"]["licence"] == "cc-by-4.0"
    data = yaml.safe_load((taken / "config.yaml").read_text(encoding="utf-8"))["data"]
    assert data["window"]["init_args"] == {"low_hu": -900, "high_hu": 500}
    assert data["pretrained_spacing_mm"] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", ["resenc_s3d_stale", "plainconv"])
def test_a_released_checkpoint_is_fine_tuned_by_what_inspect_prints(fit, nnssl_checkpoints, capsys, name):
    checkpoint = str(nnssl_checkpoints / name)
    assert cli.main(["inspect", checkpoint]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  architecture: "))
    backbone = line.removeprefix("  architecture: ")
    folder = fit("--model.init_from", checkpoint, "--model.detector.init_args.backbone", backbone)
    printed = capsys.readouterr().out
    preprocessing = json.loads((folder / "bundle" / "bundle.json").read_text(encoding="utf-8"))["preprocessing"]
    assert preprocessing["window"]["class_path"].endswith(".ZScore")
    assert "unused: decoder (24)" in printed
    assert "cite: Pretraining Method: oracle" in printed


def test_a_detector_s_bundle_serves_as_pretraining(fit, capsys):
    bundle = fit(name="first") / "bundle"
    capsys.readouterr()
    folder = fit("--model.init_from", str(bundle), name="second")
    printed = capsys.readouterr().out
    assert re.search(r"unused: .*fpn \(\d+\)", printed)
    assert "source: medpretrain3d detector bundle" in printed
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert (facts["paradigm"], facts["method"]) == ("supervised_detection", "supervised_detection")
    assert (facts["corpus"], facts["num_pretrain_volumes"]) == ("cubes", 4)


def test_a_bundle_s_feature_pyramid_is_taken_where_asked(fit, capsys):
    still = ("--model.optim.lr", "0.0")
    bundle = fit(name="first") / "bundle"
    capsys.readouterr()
    folder = fit("--model.init_from", str(bundle), "--model.init_fpn", "true", *still, name="second")
    assert re.search(r"\d+ tensors of its feature pyramid taken too", capsys.readouterr().out)
    before, after = (load_bundle(path).detector.fpn.state_dict() for path in (bundle, folder / "bundle"))
    # The averaged weights of a run that changes nothing differ by rounding.
    assert all(torch.allclose(before[name], value, atol=1e-6) for name, value in after.items())
    with pytest.raises(UserError, match="other tensors than the recipe's"):
        fit(
            *("--model.init_from", str(bundle), "--model.init_fpn", "true"),
            *("--model.detector.init_args.fpn_channels", "24"),
        )


def test_an_encoder_holds_no_feature_pyramid(fit, encoder):
    with pytest.raises(UserError, match="wanted a detector bundle; an encoder holds no pyramid"):
        fit("--model.init_from", str(encoder), "--model.init_fpn", "true")


def test_an_encoder_of_another_architecture_is_refused(fit, encoder):
    with pytest.raises(UserError, match="encoder of another architecture"):
        fit(
            *("--model.init_from", str(encoder)),
            *("--model.detector.init_args.backbone.init_args.preset", "XS"),
        )


def test_a_label_budget_is_nested_and_checked(cube_store):
    from finetune.datamodule import FinetuneData

    def ids(count):
        data = FinetuneData(str(cube_store), (16, 16, 16), 1, num_train_cases=count)
        return {case.case_id for case in data.train_cases}

    assert ids(1) < ids(2) < ids(3) < ids(None)
    with pytest.raises(UserError, match="num_train_cases 9: there are 4 training cases"):
        ids(9)


def test_a_seed_of_the_labels_draws_other_budgets_nested_in_one_another(cube_store):
    from finetune.datamodule import FinetuneData

    def ids(count, seed):
        data = FinetuneData(str(cube_store), (16, 16, 16), 1, num_train_cases=count, label_seed=seed)
        return {case.case_id for case in data.train_cases}

    assert all(ids(1, seed) < ids(2, seed) < ids(3, seed) < ids(None, seed) for seed in range(4))
    assert len({frozenset(ids(2, seed)) for seed in range(8)}) > 1
    assert ids(2, 5) == ids(2, 5)


def test_averaged_weights_and_accumulation_survive_an_interruption(fit, monkeypatch):
    twice = ("--trainer.accumulate_grad_batches", "2")
    whole = load_bundle(fit(*twice, name="whole") / "bundle").detector.state_dict()
    step, seen = FinetuneModule.training_step, []

    def interrupted_step(self, batch, batch_idx):
        seen.append(batch_idx)
        if len(seen) == 9:  # between two steps
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(FinetuneModule, "training_step", interrupted_step)
    with pytest.raises(SystemExit):
        fit(*twice, name="cut")
    monkeypatch.undo()
    resumed = load_bundle(fit(*twice, name="cut") / "bundle").detector.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_wrong_number_of_classes_is_named(fit):
    with pytest.raises(UserError, match=r"num_classes is 3, but the store has 1 classes \(cube\)"):
        fit("--model.detector.init_args.num_classes", "3")


def test_two_processes_report_the_metrics_of_one(cube_store, tmp_path):
    def arguments(name):
        return [*TINY_FINETUNE, "--data.store", str(cube_store), "--run.root", str(tmp_path), "--run.name", name]

    counting = tmp_path / "counting.py"
    counting.write_text(COUNTING, encoding="utf-8")
    printed = [
        run_sitting(
            *(tmp_path, "finetune", *arguments(name), "--data.batch_size", str(2 // count), "--model.optim.lr", "0.0"),
            num_processes=count,
            file=str(counting),
        )
        for name, count in (("one", 1), ("two", 2))
    ]
    # Two validations and the test; the closing looks at nothing again, on either process.
    for text in printed:
        assert sorted(re.findall(r"LOOK (\w+)", text)) == ["test_0", "test_1", "val_0", "val_0", "val_1", "val_1"]
    kept = [
        (tmp_path / "smoke" / name / "validation" / "sightings.safetensors").read_bytes() for name in ("one", "two")
    ]
    assert kept[0] == kept[1]
    one, other = (
        json.loads((tmp_path / "smoke" / name / "test" / "metrics.json").read_text(encoding="utf-8"))
        for name in ("one", "two")
    )
    assert one["num_cases"] == other["num_cases"] == 2
    # The learning rate is 0, so both test the same weights, and any difference is one of bookkeeping.
    assert json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    curves = [
        (tmp_path / "smoke" / name / "metrics.csv").read_text(encoding="utf-8").splitlines() for name in ("one", "two")
    ]
    tables = [list(csv.DictReader(text)) for text in curves]
    assert [row["val/mAP"] for row in tables[0]] == [row["val/mAP"] for row in tables[1]]
    for part in ("loss", "classification", "boxes"):
        values = [[float(row[f"train/{part}"]) for row in table if row[f"train/{part}"]] for table in tables]
        assert len(values[0]) == 6
        assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_the_best_weights_are_those_of_the_validation_that_scored_highest(fit, monkeypatch):
    """Four validations, the second of which is said to be the best, averaged weights and an interruption beside."""
    seen: dict[int, dict[str, torch.Tensor]] = {}
    scores = {1: 0.2, 2: 0.9, 3: 0.9, 4: 0.5}

    def evaluated(results, classes, protocol):
        return {"mAP": scores[max(seen)], "AP10": 0.0, "AP50": 0.0, "FROC10": 0.0}

    def started(self):
        self.results = {}
        seen[self.trainer.global_step] = {name: one.clone() for name, one in self.detector.state_dict().items()}

    monkeypatch.setattr("finetune.module.evaluate_results", evaluated)
    monkeypatch.setattr(FinetuneModule, "on_validation_epoch_start", started)
    words = ["--trainer.max_steps", "4", "--trainer.val_check_interval", "1"]  # the recipe averages
    best = fit(*words, "--model.weights", "best", name="best")
    bundle = load_bundle(best / "bundle")
    assert bundle.provenance["training"]["weights"] == {
        "name": "best",
        "step": 2,
        "is_averaged": True,
        "score": pytest.approx(0.9),
        "metric": "val/mAP",
    }
    for name, value in bundle.detector.state_dict().items():
        assert torch.equal(value, seen[2][name]), name
    assert any(not torch.equal(seen[2][name], seen[4][name]) for name in seen[2])
    assert json.loads((best / "run.json").read_text())["weights"] == "best"
    # A run that is continued has the best ones of the sitting before.
    seen.clear()
    checkpoint = torch.load(best / "checkpoints" / "last.ckpt", weights_only=True)
    kept = checkpoint["callbacks"]["BestWeights"]
    assert (kept["step"], kept["score"]) == (2, pytest.approx(0.9))
    assert all(torch.equal(value, bundle.detector.state_dict()[name]) for name, value in kept["weights"].items())


def test_without_a_choice_the_bundle_names_its_weights_too(fit):
    assert load_bundle(fit() / "bundle").provenance["training"]["weights"]["name"] == "averaged"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trainer.limit_val_batches", "0"], "none of the 0 cases that a validation looks at (trainer.limit_val_b"),
        (["--trainer.check_val_every_n_epoch", "2"], "nothing is ever validated: a run is one epoch"),
        (["--model.weights", "first"], "first"),
    ],
)
def test_best_weights_that_cannot_be_are_refused(fit, arguments, message, capsys):
    weights = [] if "--model.weights" in arguments else ["--model.weights", "best"]
    with pytest.raises((UserError, SystemExit)) as error:
        fit(*weights, *arguments)
    said = capsys.readouterr()
    assert message in f"{error.value} {said.err}"
    assert "step 1" not in said.out  # before any time is spent


def test_validations_without_an_object_choose_no_weights_and_are_said(tmp_path, capsys):
    """Of two validation cases, the first one is looked at, and holds nothing."""
    store = write_cubes(tmp_path / "store", {"train": 2, "val": 2})
    index = json.loads((store / "store.json").read_text(encoding="utf-8"))
    (first,) = (row for row in index["cases"] if row["id"] == "val_0")
    first["counts"] = [0]
    (store / "store.json").write_text(json.dumps(index), encoding="utf-8")
    place = ["--data.store", str(store), "--run.root", str(tmp_path), "--run.name", "r"]
    words = ["fit", *TINY_FINETUNE, *place, "--trainer.limit_val_batches", "1"]
    with pytest.raises(UserError, match=r"none of the 1 cases .* \(trainer.limit_val_batches 1 of 2\) holds an object"):
        program.main([*words, "--model.weights", "best"])
    program.main(words)
    note = "note: none of the 1 cases that a validation looks at (trainer.limit_val_batches 1 of 2) holds an object"
    assert note in capsys.readouterr().out


def test_training_that_is_done_before_a_validation_by_the_clock_ends_with_the_last_weights(fit, capsys):
    words = [
        "--trainer.max_steps",
        "1",
        "--model.optim.warmup_steps",
        "0",
        "--trainer.val_check_interval",
        "00:01:00:00",
    ]
    folder = fit(*words, "--model.weights", "best")
    assert "training was done before a validation was due; the run ends with the averaged weights" in (
        capsys.readouterr().out
    )
    assert load_bundle(folder / "bundle").provenance["training"]["weights"]["name"] == "averaged"
