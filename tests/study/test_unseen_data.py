"""A report of kept results where the data were never prepared."""

from __future__ import annotations

import shutil
from pathlib import Path

from medpretrain3d.study.document import read_study
from medpretrain3d.study.kept_results import keep_results, restore_results
from medpretrain3d.study.records import Records
from medpretrain3d.study.run_study import progress_of

from .test_progress import finish

PREPARED = {
    "seeds": [0, 1],
    "folds": [0],
    "labels": ["all"],
    "results": "kept",
    "prepare": {"cubes": ["prepare raw {store}", "split {store} --folds 2"]},
}


def without_data(write_study):
    """Keep the results of a finished study, and take away its folder and its store."""
    study = read_study(write_study(**PREPARED))
    jobs = [job for job in progress_of(study).jobs.jobs if job.kind != "prepare"]
    for job in jobs:
        finish(Records(study), job)
    assert keep_results(study, jobs) == len(jobs) == 5  # an encoder, and two arms of two seeds
    shutil.rmtree(study.folder)
    shutil.rmtree(study.root.parent / "cubes")
    assert restore_results(study) == 5
    return study


def test_results_are_known_by_their_records_where_nothing_is_run(write_study):
    study = without_data(write_study)
    assert progress_of(study).of_state("done") == []  # what runs prepares first, and compares
    found = progress_of(study, is_read_only=True)
    assert {job.name for job in found.of_state("done")} == {
        "pretrain mae, seed 0",
        *(f"finetune {arm}, cubes, labels all, seed {seed}, fold 0" for arm in ("scratch", "mae") for seed in (0, 1)),
    }
    (said,) = found.unseen_lines()
    assert said.startswith("data of 5 results are not prepared here (cubes); ")


def test_runs_on_two_stores_are_told_apart_by_the_names_of_the_data(write_study):
    without_data(write_study)
    recipe = Path("finetune.yaml").read_text()
    Path("others.yaml").write_text(recipe.replace("store: cubes", "store: others"))
    prepare = {**PREPARED["prepare"], "others": ["prepare more {store}", "split {store} --folds 2"]}
    data = {"cubes": "finetune.yaml", "others": "others.yaml"}
    both = read_study(write_study(**{**PREPARED, "prepare": prepare, "data": data}))
    found = progress_of(both, is_read_only=True)
    assert {job.setting.get("data", "cubes") for job in found.of_state("done")} == {"cubes"}
    assert len(found.of_state("done")) == 5
    arms = {"scratch": {}, "mae": {"pretrain": {"cubes": "pretrain.yaml", "others": "more.yaml"}}}
    Path("more.yaml").write_text(Path("pretrain.yaml").read_text().replace("[16, 16, 16]", "[16, 16, 8]"))
    named = read_study(write_study(**{**PREPARED, "prepare": prepare, "data": data, "arms": arms}))
    names = {job.name for job in progress_of(named, is_read_only=True).of_state("done")}
    assert "pretrain mae, cubes, seed 0" in names  # which was `pretrain mae, seed 0` where it was the only one
    assert len(names) == 5


def test_results_of_other_options_seeds_and_encoders_stay_unknown(write_study):
    without_data(write_study)
    more = read_study(write_study(**{**PREPARED, "seeds": [1, 2]}))
    assert {job.setting["seed"] for job in progress_of(more, is_read_only=True).of_state("done")} == {"0", "1"}
    arms = {"scratch": {}, "mae": {"pretrain": "pretrain.yaml", "with": {"trainer.max_steps": 4}}}
    longer = read_study(write_study(**{**PREPARED, "arms": arms}))
    assert {job.setting["arm"] for job in progress_of(longer, is_read_only=True).of_state("done")} == {"scratch"}
