from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from medpretrain3d import plugins
from medpretrain3d.command_line.composition import composed, flattened, nested
from medpretrain3d.errors import UserError
from medpretrain3d.study import expansion
from medpretrain3d.study.code_version import code_version
from medpretrain3d.study.document import KEYS, read_study
from medpretrain3d.study.expansion import HARMLESS, PLACE, expand
from medpretrain3d.study.fewer_steps import fewer_steps
from medpretrain3d.study.jobs import changes


def jobs_of(path):
    return expand(read_study(path)).jobs


def identities(path):
    return {job.name: job.identity for job in jobs_of(path)}


def test_a_study_is_one_pretraining_per_arm_and_all_combinations_of_fine_tuning(write_study):
    jobs = jobs_of(write_study())
    kinds = [job.kind for job in jobs]
    assert (kinds.count("pretrain"), kinds.count("finetune")) == (1, 2 * 2 * 2 * 2)
    assert len({job.identity for job in jobs}) == len(jobs) == len({job.name for job in jobs})
    for job in jobs[1:]:
        assert [one.name for one in job.needs] == (["pretrain mae, seed 0"] if "mae" in job.name else [])
    each = jobs_of(write_study(pretrain_seeds=2))
    needed = {job.setting["seed"]: job.needs[0].setting["seed"] for job in each if job.needs}
    assert needed == {"0": "0", "1": "1"}


def test_recipes_in_turn_go_on_from_each_others_encoders_and_are_shared(write_study, tmp_path):
    (tmp_path / "longer.yaml").write_text("base: pretrain.yaml\ntrainer: {max_steps: 4}\n")
    arms = {
        "scratch": {},
        "first": {"pretrain": "pretrain.yaml"},
        "both": {"pretrain": ["pretrain.yaml", "longer.yaml"], "with": {"model.optim.lr": 0.1}},
        "turned": {"pretrain": {"cubes": ["longer.yaml", "pretrain.yaml"]}},
    }
    jobs = {job.name: job for job in jobs_of(write_study(arms=arms, seeds=1, hypotheses=[])) if job.kind == "pretrain"}
    needs = {name: [one.name for one in job.needs] for name, job in jobs.items()}
    assert needs == {
        "pretrain first, seed 0": [],
        "pretrain both, seed 0": ["pretrain first, seed 0"],
        "pretrain turned, stage 1, seed 0": [],
        "pretrain turned, seed 0": ["pretrain turned, stage 1, seed 0"],
    }
    assert len({job.identity for job in jobs.values()}) == 4
    rates = {name: job.facts["model.optim.lr"] for name, job in jobs.items()}
    assert [name for name, rate in rates.items() if rate == 0.1] == ["pretrain both, seed 0"]
    arms["both"]["with"] = {"model.optim.lr": 0.2}
    arms["first"]["with"] = {"model.optim.lr": 0.3}
    changed = {job.name: job for job in jobs_of(write_study(arms=arms, seeds=1, hypotheses=[]))}
    assert changed["pretrain both, seed 0"].identity != jobs["pretrain both, seed 0"].identity
    # What an arm changes of its own recipe is not in the way of others that begin with it unchanged.
    assert changed["pretrain both, stage 1, seed 0"].recipe == jobs["pretrain first, seed 0"].recipe
    for job in changed.values():
        if job.kind == "finetune":
            assert [one.setting["arm"] for one in job.needs] == (
                [] if job.setting["arm"] == "scratch" else [job.setting["arm"]]
            )


def test_a_seed_fixes_weights_order_and_labeled_cases_alike_for_all_arms(write_study):
    jobs = [job for job in jobs_of(write_study()) if job.kind == "finetune"]
    for job in jobs:
        seed = int(job.setting["seed"])
        assert job.facts["seed_everything"] == seed
        assert job.facts.get("data.label_seed") == (seed if job.setting["labels"] == "1" else None)
        assert job.facts["data.fold"] == int(job.setting["fold"])
    by_setting = {}
    for job in jobs:
        key = tuple(value for name, value in job.setting.items() if name != "arm")
        by_setting.setdefault(key, []).append(job.facts)
    assert all(one == other for one, other in by_setting.values())  # the arms differ in their encoder alone


def other(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return [*value, 1] if isinstance(value, list) else f"{value}x"


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_every_option_of_a_recipe_is_part_of_the_identity(write_study, kind):
    job = next(job for job in reversed(jobs_of(write_study())) if job.kind == kind)
    options = flattened(composed(job.layers))
    left_out = {key for key in options if key not in job.facts}
    assert left_out == {key for key in options if key in HARMLESS or key.startswith(PLACE)}
    for key, value in job.facts.items():
        changed = dataclasses.replace(job, facts={**job.facts, key: other(value)})
        assert changed.identity != job.identity, key
        assert [str(one) for one in changes(job.facts, changed.facts)] == [f"{key} {value} -> {other(value)}"]
    assert dataclasses.replace(job, code="other").identity != job.identity


@pytest.mark.parametrize(
    ("key", "value", "changed"),
    [
        ("arms", {"scratch": {}, "mae": {"pretrain": "pretrain.yaml", "with": {"model.optim.lr": 0.1}}}, ("mae",)),
        (
            "arms",
            {"scratch": {"finetune": {"model.optim.lr": 0.1}}, "mae": {"pretrain": "pretrain.yaml"}},
            ("scratch",),
        ),
        ("data", {"cubes": "other.yaml"}, ("finetune",)),
        ("detectors", {"wide": {"with": {"model.detector.init_args.fpn_channels": 32}}}, ("finetune",)),
        ("labels", {1: {"with": {"trainer.max_steps": 3}}, "all": None}, ("labels 1",)),
        ("steps", [0.5, 1], ("steps 0.5",)),
        ("seeds", [2, 3], ("finetune",)),
        ("pretrain_seeds", 2, ("mae", "seed 1")),
        ("folds", "drop", ("finetune",)),
        # What only the report reads, and where it is written and by what it is run, change no result.
        ("name", "other", None),
        ("root", "other", None),
        ("primary", {"metric": "AP50"}, None),
        ("delta", 0.1, None),
        ("hypotheses", [], None),
        ("prepare", {"elsewhere": "prepare raw {store}"}, ("elsewhere",)),
        ("resources", {"finetune": {"cores": 1}}, None),
        ("results", "kept", None),
    ],
)
def test_every_key_of_the_document_changes_the_jobs_it_is_about(write_study, tmp_path, key, value, changed):
    (tmp_path / "other.yaml").write_text("base: finetune.yaml\nmodel: {optim: {lr: 0.5}}\n")
    before = identities(write_study())
    now = identities(write_study(**{key: value}))
    new = {name for name, identity in now.items() if identity not in before.values()}
    expected = set() if changed is None else {name for name in now if all(word in name for word in changed)}
    assert new == expected
    assert bool(new) == (changed is not None)


def test_the_list_above_has_every_key():
    marks = test_every_key_of_the_document_changes_the_jobs_it_is_about.pytestmark[0].args[1]
    assert {entry[0] for entry in marks} == set(KEYS)


def test_what_a_job_reads_is_part_of_its_identity(write_study, tmp_path):
    (tmp_path / "released.pt").write_bytes(b"weights")
    path = write_study(arms={"scratch": {}, "released": {"init_from": "released.pt"}}, hypotheses=[])
    before = identities(path)
    (tmp_path / "released.pt").write_bytes(b"others!")
    after = identities(path)
    assert {name for name in after if after[name] != before[name]} == {name for name in after if "released" in name}
    splits = json.loads((tmp_path / "cubes" / "splits.json").read_text())
    (tmp_path / "cubes" / "splits.json").write_text(json.dumps({**splits, "folds": splits["folds"][::-1]}))
    assert all(identities(path)[name] != after[name] for name in after)


def test_scans_without_labels_are_part_of_the_identity_of_their_arm_wherever_they_lie(write_study, tmp_path):
    shutil.copytree(tmp_path / "cubes", tmp_path / "more")

    def of(store):
        method = {"class_path": "MeanTeacher", "init_args": {"score_threshold": 0.5}}
        taught = {"finetune": {"data.unlabeled": store, "model.semi_supervised": method}}
        return identities(write_study(arms={"scratch": {}, "taught": taught}, hypotheses=[]))

    before = of("more")
    assert of(["cubes"]) == before
    splits = json.loads((tmp_path / "more" / "splits.json").read_text())
    (tmp_path / "more" / "splits.json").write_text(json.dumps({**splits, "folds": splits["folds"][::-1]}))
    now = of("more")
    assert {name for name in now if now[name] != before[name]} == {name for name in now if "taught" in name}
    with pytest.raises(UserError, match="gone: no store, and nothing in the study makes it"):
        of("gone")


def test_hard_negatives_are_part_of_the_identity_of_their_arm_wherever_they_lie(write_study, tmp_path):
    def of(name, content):
        (tmp_path / name).write_text(content)
        arms = {"scratch": {}, "harder": {"finetune": {"data.hard_negatives": name}}}
        return identities(write_study(arms=arms, hypotheses=[]))

    before = of("one.json", "{}")
    assert of("other.json", "{}") == before
    now = of("one.json", "[]")
    assert {name for name in now if now[name] != before[name]} == {name for name in now if "harder" in name}
    (tmp_path / "one.json").unlink()
    with pytest.raises(UserError, match=r"one.json: no such file or folder; give predictions.json of cross-validate"):
        expand(read_study(tmp_path / "study.yaml"))


def test_a_table_of_labels_is_part_of_the_identity_of_what_is_pretrained_on_it(write_study, tmp_path):
    objective = {"class_path": "CaseClassification", "init_args": {"backbone": {"class_path": "ResEnc"}}}

    def of(name, content):
        (tmp_path / name).write_text(content)
        views = {"class_path": "CaseLabelView", "init_args": {"table": name}}
        recipe = {"base": "pretrain.yaml", "model": {"objective": objective}, "data": {"views": views}}
        (tmp_path / "labels.yaml").write_text(yaml.safe_dump(recipe))
        arms = {"scratch": {}, "mae": {"pretrain": "pretrain.yaml"}, "taught": {"pretrain": "labels.yaml"}}
        return identities(write_study(arms=arms, hypotheses=[]))

    before = of("one.csv", "case,label\na,x\nb,y\n")
    assert of("other.csv", "case,label\na,x\nb,y\n") == before
    now = of("one.csv", "case,label\na,y\nb,x\n")
    assert {name for name in now if now[name] != before[name]} == {name for name in now if "taught" in name}
    (tmp_path / "one.csv").unlink()
    with pytest.raises(UserError, match=r"one.csv: no such file or folder; give a CSV file with the columns case"):
        expand(read_study(tmp_path / "study.yaml"))


def test_a_store_elsewhere_with_the_same_content_makes_the_same_jobs(write_study, tmp_path):
    path = write_study()
    before = identities(path)
    shutil.move(tmp_path / "cubes", tmp_path / "moved")
    for stage in ("pretrain", "finetune"):
        file = tmp_path / f"{stage}.yaml"
        recipe = yaml.safe_load(file.read_text())
        file.write_text(yaml.safe_dump({**recipe, "data": {**recipe["data"], "store": "moved"}}))
    assert identities(path) == before


def test_other_code_makes_other_results_unless_they_are_kept(write_study, monkeypatch):
    study = read_study(write_study())
    before = expand(study).jobs
    monkeypatch.setattr(expansion, "code_version", lambda kind: "0+other")
    now = expand(study).jobs
    assert not {job.identity for job in before} & {job.identity for job in now}
    kept = expand(study, {job.recipe: [job.identity] for job in before}).jobs
    assert [job.identity for job in kept] == [job.identity for job in before]


@pytest.mark.parametrize("is_there", [True, False])
def test_two_runs_that_would_be_one_are_refused_and_both_are_named(write_study, tmp_path, is_there):
    prepare = {} if is_there else {"cubes": ["prepare raw {store}"]}
    if not is_there:
        (tmp_path / "cubes").rename(tmp_path / "away")
    arms = {"scratch": {}, "steps_as_recipe": {"finetune": {"trainer.max_steps": 2}}}
    said = "arm scratch and steps_as_recipe are the same run.*drop steps_as_recipe or change an option"
    with pytest.raises(UserError, match=said):
        jobs_of(write_study(arms=arms, hypotheses=[], prepare=prepare))
    (tmp_path / "copy.yaml").write_text("base: finetune.yaml\n")
    with pytest.raises(UserError, match=r"data one and two are the same run"):
        jobs_of(write_study(data={"one": "finetune.yaml", "two": "copy.yaml"}, prepare=prepare))
    with pytest.raises(UserError, match=r"detector net and again are the same run"):
        jobs_of(write_study(detectors={"net": {}, "again": {}}, prepare=prepare))


def test_stores_that_are_yet_to_be_made_are_not_taken_for_one(write_study, tmp_path):
    prepare = {"runs/a": "prepare raw {store}", "runs/b": "prepare raw {store} --spacing-mm 4 4 4"}
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text(f"base: finetune.yaml\ndata: {{store: runs/{name}}}\n")
        (tmp_path / f"pretrain_{name}.yaml").write_text(f"base: pretrain.yaml\ndata: {{store: runs/{name}}}\n")
    arms = {"scratch": {}, "mae": {"pretrain": "pretrain_a.yaml"}, "other": {"pretrain": "pretrain_b.yaml"}}
    data = {"a": "a.yaml", "b": "b.yaml"}
    jobs = jobs_of(write_study(data=data, arms=arms, prepare=prepare, seeds=1, labels=["all"], folds=[0]))
    assert [job.kind for job in jobs] == ["prepare"] * 2 + ["pretrain"] * 2 + ["finetune"] * 6


def test_recipes_of_pretraining_that_say_the_same_make_one_encoder(write_study, tmp_path):
    (tmp_path / "copy.yaml").write_text("base: pretrain.yaml\n")
    low = {"pretrain": "copy.yaml", "finetune": {"model.optim.lr": 0.1}}
    arms = {"scratch": {}, "mae": {"pretrain": "pretrain.yaml"}, "low": low}
    jobs = jobs_of(write_study(arms=arms, seeds=1, labels=["all"], folds=[0], hypotheses=[]))
    assert [job.name for job in jobs if job.kind == "pretrain"] == ["pretrain mae, seed 0"]


def test_what_cannot_be_expanded_is_said_in_one_line(write_study, tmp_path):
    changed = {"model.objective.init_args.mask_rato": 0.6}
    path = write_study(arms={"s": {}, "mae": {"pretrain": "pretrain.yaml", "with": changed}}, hypotheses=[])
    with pytest.raises(UserError, match="unknown key 'mask_rato'; did you mean 'mask_ratio'"):
        jobs_of(path)
    with pytest.raises(UserError, match="folds: got 2, cubes has 2 folds, counted from 0"):
        jobs_of(write_study(folds=[0, 2]))
    with pytest.raises(UserError, match=r"gone\.pt: no such file or folder"):
        jobs_of(write_study(arms={"scratch": {}, "mae": {"init_from": "gone.pt"}}))
    (tmp_path / "cubes").rename(tmp_path / "away")
    with pytest.raises(UserError, match="cubes: no store, and nothing in the study makes it"):
        jobs_of(write_study())
    unprepared = expand(read_study(write_study(prepare={"cubes": ["prepare raw {store}", "split {store} --folds 3"]})))
    assert unprepared.unknown == ("cubes",)
    assert [job.is_known for job in unprepared.jobs] == [True] + [False] * (1 + 2 * 2 * 2 * 3)


def test_options_of_commands_may_have_an_equals_sign(write_study, tmp_path):
    (tmp_path / "cubes").rename(tmp_path / "away")
    prepare = {
        "cubes": ["prepare raw {store} --folds=3"],
        "runs/folds": "cross-validate --config=finetune.yaml -o {store}",
    }
    jobs = expand(read_study(write_study(prepare=prepare, seeds=1, labels=["all"])))
    assert {job.setting["fold"] for job in jobs.of_kind("finetune")} == {"0", "1", "2"}
    (candidates,) = [job for job in jobs.of_kind("prepare") if job.setting["store"] == "runs/folds"]
    assert [one.setting["store"] for one in candidates.needs] == ["cubes"]


def test_layers_are_laid_over_each_other_as_the_parser_of_the_stage_does():
    below = {"model": {"detector": {"class_path": "RetinaNet", "init_args": {"num_classes": 1, "anchors": {"a": 1}}}}}
    above = {"model": {"detector": {"class_path": "medpretrain3d.detection.FCOS", "init_args": {"fpn_channels": 8}}}}
    assert flattened(composed([below, above])) == {
        "model.detector.class_path": "FCOS",
        "model.detector.init_args.num_classes": 1,
        "model.detector.init_args.fpn_channels": 8,
    }
    assert composed([{"a": [1]}, {"a+": [2]}]) == {"a": [1, 2]}
    assert composed([{"a": {"b": 1}}, {"a+": {"b": 2}}, {"a+": [3]}]) == {"a": [{"b": 1}, {"b": 2}, 3]}
    assert nested({"a.b": 1, "a.c": {"d": 2}}) == {"a": {"b": 1, "c": {"d": 2}}}
    assert nested({"a.b+": [1], "a.c+": 2}) == {"a": {"b+": [1], "c+": [2]}}
    assert composed([nested({"a.b+": [1]}), nested({"a.b+": [2]})]) == {"a": {"b": [1, 2]}}
    assert composed([{"a+": [1]}, {"a": [2]}]) == {"a": [2]}


def test_what_a_study_appends_to_a_list_of_a_recipe_is_appended(write_study, tmp_path):
    recipe = yaml.safe_load((tmp_path / "finetune.yaml").read_text())
    recipe["trainer"] = {**recipe.get("trainer", {}), "callbacks": [{"class_path": "EMAWeightAveraging"}]}
    (tmp_path / "averaged.yaml").write_text(yaml.safe_dump(recipe))
    more = {"with": {"trainer.callbacks+": [{"class_path": "LearningRateMonitor"}]}}
    jobs = [
        job for job in jobs_of(write_study(data={"cubes": "averaged.yaml"}, detectors={"more": more})) if job.layers
    ]
    tuned = [job for job in jobs if job.kind == "finetune"]
    assert tuned
    for job in tuned:
        assert any("callbacks+" in layer.get("trainer", {}) for layer in job.layers)
        named = {key: value for key, value in flattened(composed(job.layers)).items() if "callbacks" in key}
        assert list(named.values()) == ["EMAWeightAveraging", "LearningRateMonitor"]


def test_the_name_of_a_class_alone_is_as_good_as_its_class_path():
    below = {"class_path": "RetinaNet", "init_args": {"num_classes": 1, "anchors": {"a": 1}}}
    wanted = {"class_path": "FCOS", "init_args": {"num_classes": 1}}
    assert composed([{"detector": below}, {"detector": "FCOS"}]) == {"detector": wanted}
    assert composed([{"detector": below}, {"detector": "RetinaNet"}]) == {"detector": below}
    assert composed([{"detector": "FCOS"}, {"detector": {"init_args": {"num_classes": 1}}}]) == {"detector": wanted}
    assert composed([{"store": {"path": "a"}}, {"store": "b"}]) == {"store": "b"}


def test_jobs_of_recipes_that_name_a_class_alone_are_told_apart_by_its_arguments_and_by_the_class(
    write_study, tmp_path
):
    def jobs(detector, num_classes, more):
        below = {"class_path": "RetinaNet", "init_args": {"num_classes": num_classes}}
        recipe = yaml.safe_load((tmp_path / "finetune.yaml").read_text())
        recipe["model"] = {**recipe.get("model", {}), "detector": below}
        (tmp_path / "below.yaml").write_text(yaml.safe_dump(recipe))
        (tmp_path / "named.yaml").write_text(yaml.safe_dump({"base": "below.yaml", "model": {"detector": detector}}))
        above = {"base": "named.yaml", **({"model": {"detector": {"init_args": {"fpn_channels": 8}}}} if more else {})}
        (tmp_path / "above.yaml").write_text(yaml.safe_dump(above))
        study = write_study(data={"cubes": "above.yaml"}, arms={"scratch": {}}, hypotheses=[], seeds=1)
        return frozenset(identities(study).values())

    detectors = ("FCOS", "RetinaNet")
    assert len({jobs(name, count, more) for name in detectors for count in (1, 2) for more in (False, True)}) == 8


def test_arms_are_run_with_some_labels_a_share_of_the_steps_and_some_data_sets(write_study, tmp_path):
    (tmp_path / "other.yaml").write_text("base: finetune.yaml\nmodel: {optim: {lr: 0.5}}\n")
    (tmp_path / "pretrain_b.yaml").write_text("base: pretrain.yaml\nmodel: {optim: {lr: 0.5}}\n")
    arms = {
        "scratch": {},
        "mae": {"pretrain": {"a": "pretrain.yaml", "b": "pretrain_b.yaml"}},
        "mae_half": {"pretrain": "pretrain.yaml", "steps": 0.5, "labels": ["all"]},
        "only_a": {"pretrain": {"a": "pretrain_b.yaml"}},
    }
    detectors = {"net": {}, "beside": {"with": {"model.optim.lr": 0.1}, "data": ["b"], "arms": ["mae"], "labels": [1]}}
    changes = {"data": {"a": "finetune.yaml", "b": "other.yaml"}, "arms": arms, "detectors": detectors}
    jobs = jobs_of(write_study(**changes, seeds=1, folds=[0], hypotheses=["mae_half > scratch"]))
    names = [job.name for job in jobs if job.kind == "finetune"]
    usual = [
        f"finetune {arm}, {data}, net, labels {labels}, seed 0, fold 0"
        for arm in arms
        for data in ("a", "b")
        for labels in (1, "all")
        if (arm, labels) != ("mae_half", 1) and (arm, data) != ("only_a", "b")
    ]
    assert sorted(names) == sorted([*usual, "finetune mae, b, beside, labels 1, seed 0, fold 0"])
    half = next(job for job in jobs if "mae_half" in job.name and job.kind == "finetune")
    assert (half.facts["trainer.max_steps"], half.facts["trainer.val_check_interval"]) == (1, 1)
    # Two recipes of pretraining, whoever begins from them: each is run once, and named by the first.
    pretraining = [job for job in jobs if job.kind == "pretrain"]
    assert [job.name for job in pretraining] == ["pretrain mae, a, seed 0", "pretrain only_a, seed 0"]
    assert half.needs == (pretraining[0],)
    assert {job.needs for job in jobs if job.name.startswith("finetune only_a")} == {(pretraining[1],)}


@pytest.mark.parametrize(
    ("whole", "interval", "share", "steps", "expected"),
    [
        (1000, 250, 0.5, 500, None),  # divides: as it is
        (1000, 250, 0.3, 300, 300),  # was validated at 250 alone
        (12_500, 1000, 0.25, 3125, 625),
        (1000, 300, 0.5, 500, 250),
        (200, 100, 0.25, 50, 50),
        (307, 50, 1.0, 307, 307),  # a prime: once, at the end
        (1000, 0.25, 0.3, 300, None),  # a share of the steps
    ],
)
def test_a_share_of_the_steps_ends_with_a_validation(whole, interval, share, steps, expected):
    options = {"trainer.max_steps": whole, "trainer.val_check_interval": interval}
    changed = {"trainer.max_steps": steps} | ({} if expected is None else {"trainer.val_check_interval": expected})
    assert fewer_steps(options, share, "steps") == changed


def test_a_share_of_steps_needs_their_number(write_study):
    arms = {"scratch": {}, "half": {"steps": 0.5, "finetune": {"trainer.max_steps": -1}}}
    with pytest.raises(UserError, match=r"arms.half.steps: its recipe has no trainer.max_steps"):
        jobs_of(write_study(arms=arms, hypotheses=[]))


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_run_that_its_stage_would_refuse_for_its_steps_is_refused_before_any_is_begun(write_study, stage):
    key = "with" if stage == "pretrain" else "finetune"
    longer = {"trainer.max_steps": 2, "trainer.val_check_interval": 3}
    arms = {"scratch": {}, "mae": {"pretrain": "pretrain.yaml", key: longer}}
    with pytest.raises(UserError, match=rf"val_check_interval 3 and max_steps 2, .* \({stage} mae"):
        jobs_of(write_study(arms=arms))
    arms["mae"][key] = {"model.optim.warmup_steps": 1, "trainer.max_steps": 1, "trainer.val_check_interval": 1}
    with pytest.raises(UserError, match=rf"optim.warmup_steps 1 and trainer.max_steps 1: .* \({stage} mae"):
        jobs_of(write_study(arms=arms))


def test_pseudo_objects_are_looked_for_once_the_scans_are_prepared(write_study):
    prepare = {"runs/found": "pseudo runs/scans {store}", "runs/scans": "prepare raw {store} --spacing-mm 4 4 4"}
    scans, found = jobs_of(write_study(prepare=prepare))[:2]
    assert (scans.setting["store"], found.setting["store"]) == ("runs/scans", "runs/found")
    assert (scans.needs, found.needs) == ((), (scans,))
    finer = {**prepare, "runs/scans": "prepare raw {store} --spacing-mm 2 2 2"}
    assert jobs_of(write_study(prepare=finer))[1].identity != found.identity
    with pytest.raises(UserError, match="is made of itself"):
        expand(read_study(write_study(prepare={"runs/a": "pseudo runs/b {store}", "runs/b": "pseudo runs/a {store}"})))


def test_candidates_out_of_fold_are_made_once_the_scans_are_prepared(write_study, tmp_path):
    options = {"finetune": {"data.hard_negatives": "runs/folds/predictions.json"}}
    study = {"arms": {"scratch": {}, "hard": options}, "hypotheses": [], "seeds": 1}
    prepare = {"runs/folds": "cross-validate --config finetune.yaml -o {store}", "cubes": "prepare raw {store}"}
    found = expand(read_study(write_study(**study, prepare=prepare)))
    store, candidates = found.of_kind("prepare")
    assert (candidates.needs, candidates.product) == ((store,), Path("runs/folds/predictions.json"))
    assert candidates.code == code_version("finetune") != store.code
    assert found.unknown == ("runs/folds",)
    assert {job.is_known for job in found.jobs if "hard" in job.name} == {False}
    recipe = tmp_path / "finetune.yaml"
    before = recipe.read_text()
    recipe.write_text(before + "seed_everything: 5\n")
    assert jobs_of(write_study(**study, prepare=prepare))[1].identity != candidates.identity
    recipe.write_text(before)
    (tmp_path / "runs/folds").mkdir(parents=True)
    (tmp_path / "runs/folds/predictions.json").write_text("{}")
    found = expand(read_study(write_study(**study, prepare=prepare)))
    assert (found.unknown, {job.is_known for job in found.jobs}) == ((), {True})
    with pytest.raises(UserError, match="cross-validate -o runs/folds: names no recipe; add --config RECIPE"):
        jobs_of(write_study(**study, prepare={"runs/folds": "cross-validate -o {store}"}))
    with pytest.raises(
        UserError, match=r"lost.json: no such file or folder; give predictions.json of cross-validate, or"
    ):
        jobs_of(write_study(arms={"hard": {"finetune": {"data.hard_negatives": "lost.json"}}}, hypotheses=[]))


def test_shares_of_the_steps_are_run_by_every_arm_with_the_labels_of_the_verdicts(write_study):
    whole = identities(write_study(seeds=1, folds=[0]))
    jobs = jobs_of(write_study(seeds=1, folds=[0], steps=[0.5, 1]))
    found = {job.name: job for job in jobs}
    shorter = {name for name in found if name not in whole}
    assert shorter == {f"finetune {arm}, cubes, labels all, steps 0.5, seed 0, fold 0" for arm in ("scratch", "mae")}
    assert {name: found[name].identity for name in whole} == whole  # what is there is not run again
    half = found["finetune mae, cubes, labels all, steps 0.5, seed 0, fold 0"]
    assert (half.facts["trainer.max_steps"], half.facts["trainer.val_check_interval"]) == (1, 1)
    assert half.slug.startswith("mae-cubes-labelsall-steps0.5-seed0-fold0-")
    with pytest.raises(UserError, match=r"steps: 0.25 and 0.5 of 2 steps are both 1; drop one of them"):
        jobs_of(write_study(steps=[0.25, 0.5, 1]))


def test_the_code_of_a_plugin_that_any_recipe_names_counts(write_study, tmp_path, monkeypatch):
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setattr(plugins, "_looked_for", [])
    monkeypatch.setenv(plugins.VARIABLE, "")
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "package_of_a_study"
    package.mkdir()
    recipe = tmp_path / "pretrain.yaml"
    text = "from medpretrain3d.configurable import Configurable\nclass OfAStudy(Configurable): pass\n"
    (package / "__init__.py").write_text(text)
    before = identities(write_study())
    recipe.write_text(f"plugins: [{package.name}]\n{recipe.read_text()}")
    now = identities(write_study())
    assert now.keys() == before.keys()
    assert not set(now.values()) & set(before.values())  # also of the arm that is first, from scratch
    assert identities(write_study()) == now
    del sys.modules[package.name]


def test_released_weights_are_named_as_fine_tuning_takes_them(write_study, tmp_path, monkeypatch):
    def identity(source):
        path = write_study(
            arms={"scratch": {}, "released": {"init_from": source}}, hypotheses=[], seeds=1, labels=["all"]
        )
        return next(job.identity for job in jobs_of(path) if "released" in job.name)

    with pytest.raises(UserError, match=r"lab/net: no such file or folder, .* put it into pretrained/lab/net"):
        identity("lab/net")
    place = tmp_path / "pretrained" / "lab" / "net" / "model.pt"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"weights")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert identity("lab/net") == identity("pretrained/lab/net") == identity("~/pretrained/lab/net")
    assert identity("lab/net/model.pt") == identity(str(place))
    before = identity("lab/net")
    place.write_bytes(b"others")
    assert identity("lab/net") != before
