"""Whatever differs between two runs makes them no replicates and no pair: every fact and option in turn."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from medpretrain3d.command_line.composition import composed, flattened, nested, recipe_layers
from medpretrain3d.command_line.precheck import CLASSES
from medpretrain3d.command_line.signatures import signatures, trainer_options
from medpretrain3d.evaluation.named_metrics import MAP
from medpretrain3d.run_metadata import RunMetadata
from medpretrain3d.study.design import NOTHING_DECLARED
from medpretrain3d.study.differences import paired_differences
from medpretrain3d.study.identity import SETTING_FACTS, START_FACTS, arm_labels, identify
from medpretrain3d.study.report import make_report
from medpretrain3d.study.run import Run, find_runs
from medpretrain3d.study.tables import difference_table
from tests.study.test_report import write_finetuning, write_run

ROOT = Path(__file__).resolve().parents[2]

FACTS: dict[str, Any] = {
    "dataset": "d",
    "num_train_cases": 8,
    "label_fraction": 1.0,
    "data_fingerprint": "f" * 64,
    "hard_negatives_sha256": "a" * 64,
    "backbone": "tiny",
    "detector": "FCOS",
    "params": 1000,
    "budget_steps": 20,
    "fold": 0,
    "num_test_cases": 12,
    "num_val_cases": 2,
    "precision": "32-true",
    "weights": "last",
}
CONFIG: dict[str, Any] = {
    "seed_everything": 0,
    "trainer": {"max_steps": 20, "precision": "bf16-mixed", "gradient_clip_val": 1.0, "accumulate_grad_batches": 2},
    "model": {
        "detector": {
            "class_path": "FCOS",
            "init_args": {"num_classes": 1, "head": {"class_path": "PointHead", "init_args": {"num_convs": 2}}},
        },
        "optim": {"name": "sgd", "lr": 0.01, "betas": [0.9, 0.98]},
        "inference": {"overlap": 0.5},
    },
    "data": {"store": "a", "patch": [16, 16, 16], "batch_size": 2, "augment": {"rotation": 30}},
    "run": {"name": "a"},
}
OPTIONS = (
    *("trainer.max_steps", "trainer.precision", "trainer.gradient_clip_val", "trainer.accumulate_grad_batches"),
    *("model.detector.class_path", "model.detector.init_args.num_classes", "model.optim.lr", "model.optim.betas"),
    *("model.detector.init_args.head.init_args.num_convs", "model.inference.overlap", "data.patch"),
    *("data.batch_size", "data.augment.rotation", "data.new_option"),
)
PRETRAIN: dict[str, Any] = {
    "seed_everything": 0,
    "model": {"objective": {"class_path": "MAE", "init_args": {"mask_ratio": 0.75}}, "optim": {"lr": 0.01}},
    "data": {"store": "ct", "patch": [16, 16, 16]},
}


def with_option(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(config)
    *parents, last = key.split(".")
    place = changed
    for name in parents:
        place = place[name]
    place[last] = value
    return changed


def write(root: Path, name: str, arm: str, shift: float, config: dict[str, Any] | None = None, **facts: Any) -> Path:
    folder = write_finetuning(root, name, arm, shift, **{"num_cases": facts.pop("num_train_cases", 8)}, **facts)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG if config is None else config))
    return folder


def facts_but(**changed: Any) -> dict[str, Any]:
    return {key: value for key, value in (FACTS | changed).items() if value is not None}


def rows_of(root: Path) -> list[list[str]]:
    runs = find_runs([root])
    finetuning, pretraining = (
        [run for run in runs if run.metadata.stage == stage] for stage in ("finetune", "pretrain")
    )
    identities = identify(finetuning, pretraining)
    found, _ = paired_differences(finetuning, identities, arm_labels(finetuning, identities), NOTHING_DECLARED)
    return [[str(cell) for cell in row] for row in difference_table(found, MAP).rows]


def test_runs_that_are_alike_are_paired(tmp_path: Path):
    for seed in (0, 1):
        write(tmp_path, f"scratch{seed}", "scratch", 5.0, **facts_but(seed=seed))
        write(tmp_path, f"mae{seed}", "mae", 1.0 + seed, **facts_but(seed=seed))
    assert [row[3] for row in rows_of(tmp_path)] == ["2"]


def test_every_fact_is_tried():
    assert set(FACTS) == set(SETTING_FACTS)


@pytest.mark.parametrize("fact", FACTS)
def test_another_fact_is_never_paired_nor_averaged(tmp_path: Path, fact: str):
    value = FACTS[fact]
    other = f"{value[:-1]}x" if isinstance(value, str) else value / 2 if fact == "label_fraction" else value + 1
    write(tmp_path, "scratch", "scratch", 5.0, **facts_but(seed=0))
    write(tmp_path, "mae", "mae", 1.0, **facts_but(seed=0))
    write(tmp_path, "mae_other", "mae", 1.0, **facts_but(**{"seed": 1, fact: other}))
    write(tmp_path, "scratch_other", "scratch", 5.0, **facts_but(seed=1))
    rows = rows_of(tmp_path)
    assert [row[3] for row in rows] == ["1"]  # the seed that is alike, alone


@pytest.mark.parametrize("option", OPTIONS)
def test_another_option_is_never_paired_nor_averaged(tmp_path: Path, option: str):
    changed = with_option(CONFIG, option, 3)
    write(tmp_path, "scratch0", "scratch", 5.0, **facts_but(seed=0))
    write(tmp_path, "mae0", "mae", 1.0, **facts_but(seed=0))
    write(tmp_path, "scratch1", "scratch", 5.0, **facts_but(seed=1))
    write(tmp_path, "mae1", "mae", 1.0, config=changed, **facts_but(seed=1))
    assert [row[3] for row in rows_of(tmp_path)] == ["1"]
    write(tmp_path, "scratch2", "scratch", 5.0, config=changed, **facts_but(seed=1))
    rows = rows_of(tmp_path)  # now both have a baseline, each its own: two arms of one seed, no verdict
    assert [(row[3], row[-1]) for row in rows] == [("1", "no verdict")] * 2
    assert len({row[0] for row in rows}) == 2


@pytest.mark.parametrize(
    "option",
    ["seed_everything", "data.store", "data.num_workers", "run.name", "trainer.log_every_n_steps", "data.fold"],
)
def test_options_that_change_no_result_or_are_facts_do_not_matter(tmp_path: Path, option: str):
    for seed in (0, 1):
        config = with_option(CONFIG, option, seed)
        write(tmp_path, f"scratch{seed}", "scratch", 5.0, **facts_but(seed=seed))
        write(tmp_path, f"mae{seed}", "mae", 1.0, config=config, **facts_but(seed=seed))
    assert [row[3] for row in rows_of(tmp_path)] == ["2"]


def pretrained(root: Path, name: str, seed: int, config: dict[str, Any], **facts: Any) -> None:
    """A pretraining run and a fine-tuning run that began from it."""
    sha = f"{abs(hash(name)):064x}"[:64]
    known = {"stage": "pretrain", "paradigm": "mae", "corpus": "c", "checkpoint_sha256": sha, "seed": seed, **facts}
    folder = write_run(root / "pre", name, [], **known)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    start = {"pretrain_run": f"demo/{name}", "checkpoint_sha256": sha, "corpus": known["corpus"]}
    write(root, f"mae_{name}", "mae", 1.0, **facts_but(seed=seed, **start))


@pytest.mark.parametrize(
    ("option", "value"),
    [("model.objective.init_args.mask_ratio", 0.6), ("model.optim.lr", 0.1), ("data.patch", [32] * 3)],
)
def test_pretraining_of_other_options_is_another_arm(tmp_path: Path, option: str, value: Any):
    for seed in (0, 1):
        write(tmp_path, f"scratch{seed}", "scratch", 5.0, **facts_but(seed=seed))
    pretrained(tmp_path, "a", 0, PRETRAIN)
    pretrained(tmp_path, "b", 1, with_option(PRETRAIN, option, value))
    rows = rows_of(tmp_path)
    assert [(row[3], row[-1]) for row in rows] == [("1", "no verdict")] * 2
    assert len({row[0] for row in rows}) == 2  # and the page says which is which
    assert str(value)[:3].strip("[") in "".join(row[0] for row in rows)


@pytest.mark.parametrize("fact", ["corpus", "num_pretrain_volumes", "data_fingerprint", "budget_steps", "backbone"])
def test_pretraining_of_other_facts_is_another_arm(tmp_path: Path, fact: str):
    for seed in (0, 1):
        write(tmp_path, f"scratch{seed}", "scratch", 5.0, **facts_but(seed=seed))
        pretrained(tmp_path, f"p{seed}", seed, PRETRAIN, **{fact: (7 if fact.startswith(("num", "budget")) else "x")})
    assert [row[3] for row in rows_of(tmp_path)] == ["2"]
    path = tmp_path / "pre" / "demo" / "p1" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {fact: 8 if fact.startswith(("num", "budget")) else "y"}))
    assert [row[3] for row in rows_of(tmp_path)] == ["1", "1"]


def test_pretraining_seeds_follow_the_seeds_and_two_of_one_seed_are_two_arms(tmp_path: Path):
    for seed in (0, 1):
        write(tmp_path, f"scratch{seed}", "scratch", 5.0, **facts_but(seed=seed))
        pretrained(tmp_path, f"p{seed}", seed, with_option(PRETRAIN, "seed_everything", seed))
    assert [row[3] for row in rows_of(tmp_path)] == ["2"]
    sha = json.loads((tmp_path / "pre" / "demo" / "p1" / "run.json").read_text())["checkpoint_sha256"]
    write(tmp_path, "again", "mae", 1.0, **facts_but(seed=0, pretrain_run="demo/p1", checkpoint_sha256=sha, corpus="c"))
    rows = rows_of(tmp_path)
    assert sorted(row[3] for row in rows) == ["1", "2"]
    assert {row[0] for row in rows} == {"mae, seed 0", "mae, seed 1"}


def test_encoders_whose_runs_are_not_there_are_arms_of_their_own(tmp_path: Path):
    for seed in (0, 1):
        write(tmp_path, f"scratch{seed}", "scratch", 5.0, **facts_but(seed=seed))
        write(tmp_path, f"mae{seed}", "mae", 1.0, **facts_but(seed=seed, checkpoint_sha256=f"{seed}" * 64))
    assert [row[3] for row in rows_of(tmp_path)] == ["1", "1"]


@pytest.mark.parametrize("fact", START_FACTS)
def test_what_an_arm_is_tells_it_apart(fact: str):
    known = {"stage": "finetune", "dataset": "d", "num_train_cases": 4}
    values = (1, 2) if fact.startswith("num") else ("x", "y")
    runs = [Run(Path(str(value)), RunMetadata(**{**known, fact: value})) for value in values]
    a, b = identify(runs, ()).values()
    assert a.setting == b.setting
    assert a.start != b.start
    assert len(set(arm_labels(runs).values())) == 2


def test_options_that_a_study_gives_to_its_arms_are_what_the_arm_is(tmp_path: Path):
    for seed in (0, 1):
        write(tmp_path, f"scratch{seed}", "scratch", 5.0, **facts_but(seed=seed))
        config = with_option(CONFIG, "model.optim.lr", 0.1)
        write(tmp_path, f"mae{seed}", "mae", 1.0, config=config, **facts_but(seed=seed))
    runs = find_runs([tmp_path])
    assert make_report(runs, "Title").differences.rows == []
    assert len(make_report(runs, "Title", arm_options=["model.optim.lr"]).differences.rows) == 1


def test_scans_without_labels_make_an_arm_that_is_paired_with_its_baseline(tmp_path: Path):
    beside = {"semi_supervised": "meanteacher", "unlabeled_corpus": "more", "num_unlabeled_volumes": 40}
    config = copy.deepcopy(CONFIG)
    config["model"]["semi_supervised"] = {"class_path": "MeanTeacher", "init_args": {"weight": 4.0}}
    config["data"] |= {"unlabeled": "more", "unlabeled_batch_size": 2}
    for seed in (0, 1):
        write(tmp_path, f"scratch{seed}", "scratch", 5.0, **facts_but(seed=seed))
        write(tmp_path, f"taught{seed}", "scratch", 1.0, config=config, **facts_but(seed=seed), **beside)
    assert [row[3] for row in rows_of(tmp_path)] == ["2"]
    runs = find_runs([tmp_path])
    assert {run.method for run in runs} == {"scratch", "scratch + meanteacher"}
    assert {run.name for run in runs if run.is_baseline} == {run.name for run in runs if "scratch" in run.name}
    heavier = with_option(config, "model.semi_supervised.init_args.weight", 1.0)
    (last,) = (run.folder for run in runs if run.name.endswith("taught1"))
    (last / "config.yaml").write_text(yaml.safe_dump(heavier))
    assert [row[3] for row in rows_of(tmp_path)] == ["1", "1"]  # two arms


HARMLESS = {
    **dict.fromkeys(("trainer.logger", "trainer.log_every_n_steps"), "who is told"),
    **dict.fromkeys(("trainer.enable_autolog_hparams", "trainer.enable_model_summary"), "who is told"),
    **dict.fromkeys(("trainer.enable_progress_bar", "trainer.profiler", "trainer.barebones"), "who is told"),
    **dict.fromkeys(("trainer.enable_checkpointing", "trainer.default_root_dir"), "where it is kept"),
    **dict.fromkeys(("trainer.detect_anomaly",), "stops a run, or changes nothing"),
    **dict.fromkeys(("data.num_workers", "data.prefetch_factor"), "how fast it is read"),
    **dict.fromkeys(("data.store", "data.stage_to"), "the fingerprint says what is in it"),
    **dict.fromkeys(("seed_everything", "data.seed"), "seeds are what is averaged"),
}
"""Keys of both stages that may differ between replicates, and why."""
HARMLESS_OF = {
    "finetune": {
        **dict.fromkeys(("data.fold", "data.label_fraction", "data.num_train_cases"), "facts"),
        **dict.fromkeys(("data.label_seed",), "which cases are labeled is compared itself"),
        **dict.fromkeys(("model.init_from",), "the encoder says what it is"),
        **dict.fromkeys(("data.hard_negatives",), "their hash is a fact"),
        **dict.fromkeys(("model.allow_seen_scans",), "the report says what was seen"),
    },
    "pretrain": {},
}
OF_CHOICE = ("val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps", "limit_val_batches")
"""Options of the trainer that matter where a run ends with the best weights."""


def keys_of(stage: str) -> list[str]:
    """Every option of a stage: those of its classes and of the trainer, and what any recipe holds below them."""
    keys = {f"trainer.{name}" for name in trainer_options()} | {"seed_everything", "plugins"}
    for root, name in CLASSES[stage].items():
        keys |= {f"{root}.{parameter}" for parameter in signatures(name)[0].parameters}
    for recipe in sorted((ROOT / "configs" / stage).glob("*.yaml")):
        keys |= set(flattened(composed(recipe_layers(recipe, stage))))
    return sorted(keys)


def identity_with(folder: Path, stage: str, **options: Any) -> tuple[Any, ...]:
    """The identity, without its seed, of a fine-tuning run, or of one that began from such a pretraining run."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(nested(options)))
    run = Run(folder, RunMetadata(stage=stage, name="it", group="g", seed=0, fold=0))
    pretraining: list[Run] = []
    if stage == "pretrain":
        pretraining, run = [run], Run(folder / "f", RunMetadata(stage="finetune", method="mae", pretrain_run="g/it"))
    (one,) = identify([run], pretraining).values()
    return one.setting, one.start


@pytest.mark.parametrize("stage", ["finetune", "pretrain"])
def test_every_key_of_a_stage_in_turn_tells_runs_apart_or_is_known_to_change_nothing(tmp_path: Path, stage: str):
    harmless = HARMLESS | HARMLESS_OF[stage]
    told = {}
    for number, key in enumerate(keys_of(stage)):
        a, b = (identity_with(tmp_path / f"{number}{value}", stage, **{key: value}) for value in ("x", "y"))
        told[key] = a != b
    expected = {f"trainer.{name}" for name in OF_CHOICE} | set(harmless)
    expected |= {key for key in told if key.startswith("run.")}  # where it is kept, and who is told of it
    assert {key for key, differs in told.items() if not differs} == expected & set(told)
    assert "trainer.callbacks.0.init_args.decay" in told or stage == "pretrain"
    assert len(told) > 100


@pytest.mark.parametrize("name", OF_CHOICE)
def test_when_it_validates_matters_where_the_best_weights_are_kept(tmp_path: Path, name: str):
    for weights, differs in (("last", False), ("best", True)):
        options = {"model.weights": weights, f"trainer.{name}": 1}
        a = identity_with(tmp_path / weights / "a", "finetune", **options)
        assert (a != identity_with(tmp_path / weights / "b", "finetune", **options | {f"trainer.{name}": 2})) is differs


def test_the_decay_of_averaged_weights_is_never_averaged_over(tmp_path: Path):
    averaged = {"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.99}}
    config = with_option(CONFIG, "trainer.callbacks", [averaged])
    other = with_option(CONFIG, "trainer.callbacks", [averaged | {"init_args": {"decay": 0.9}}])
    for seed, mine in ((0, config), (1, other)):
        write(tmp_path, f"scratch{seed}", "scratch", 5.0, config=config, **facts_but(seed=seed))
        write(tmp_path, f"mae{seed}", "mae", 1.0, config=mine, **facts_but(seed=seed))
    assert [row[3] for row in rows_of(tmp_path)] == ["1"]


def test_runs_on_other_labeled_cases_are_no_pair(tmp_path: Path):
    for arm, cases in (("scratch", ["a", "b"]), ("mae", ["a", "c"])):
        folder = write(tmp_path, arm, arm, 5.0, **facts_but(seed=0))
        train = [{"case": case, "boxes": [], "labels": []} for case in cases]
        (folder / "test" / "train_targets.json").write_text(json.dumps({"classes": ["x"], "targets": train}))
    report = make_report(find_runs([tmp_path]), "Title")
    assert report.differences.rows == []
    assert any("was trained on other labeled cases than demo/scratch" in note for note in report.notes)


def test_what_precision_a_machine_chose_is_never_averaged_over_in_a_study_unless_it_is_the_arm(tmp_path: Path):
    known = RunMetadata(stage="finetune", dataset="d", num_train_cases=4, seed=0)
    design = {"arm": "a", "data": "d", "labels": "all", "seed": "0"}
    runs = [Run(tmp_path / one, known | RunMetadata(precision=one), design=design) for one in ("32-true", "bf16-mixed")]
    a, b = identify(runs, ()).values()
    assert a.setting != b.setting
    a, b = identify(runs, (), ["trainer.precision"]).values()
    assert a.setting == b.setting


def test_encoders_that_left_out_the_fold_of_each_run_are_one_arm(tmp_path: Path):
    starts = []
    for fold in (0, 1):
        folder = tmp_path / str(fold)
        folder.mkdir()
        (folder / "config.yaml").write_text(yaml.safe_dump({"data": {"fold": fold}}))
        facts = RunMetadata(stage="pretrain", name=f"p{fold}", group="g", num_pretrain_volumes=30 + fold)
        start = RunMetadata(method="mae", pretrain_run=f"g/p{fold}", num_pretrain_volumes=30 + fold)
        run = Run(tmp_path / "f", RunMetadata(stage="finetune", fold=fold) | start)
        other = Run(tmp_path / "f", RunMetadata(stage="finetune", fold=1 - fold) | start)
        of_run, of_other = identify([run, other], [Run(folder, facts)]).values()
        assert of_run.start != of_other.start
        starts.append(of_run.start)
    assert starts[0] == starts[1]


def test_options_of_a_detector_are_no_words_beside_its_name(tmp_path: Path):
    for name, detector in (("a", "FCOS"), ("b", "RetinaNet")):
        config = {"model": {"detector": {"class_path": detector, "init_args": {f"of_{detector}": 1}}}}
        folder = write_finetuning(tmp_path, name, "mae", 0.0, detector=detector)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert sorted(arm_labels(find_runs([tmp_path])).values()) == ["mae, FCOS", "mae, RetinaNet"]
