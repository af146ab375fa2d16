"""Studies that keep results in one folder, and reports of them where the data were never prepared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from medpretrain3d.command_line.composition import composed
from medpretrain3d.study.design import Study
from medpretrain3d.study.document import read_study
from medpretrain3d.study.jobs import Job
from medpretrain3d.study.kept_results import keep_results, restore_results
from medpretrain3d.study.progress import Progress
from medpretrain3d.study.records import Records
from medpretrain3d.study.run_study import progress_of

from .test_progress import finish

OTHERS = {"scratch": {}, "masked": {"pretrain": "pretrain.yaml"}}
"""The arms of a study that calls the pretraining `mae` otherwise."""


def in_stores(write_study: Callable[..., Path], store: str, **changes: object) -> Study:
    """A study on the cubes in a folder of that name."""
    for stage in ("pretrain", "finetune"):
        recipe = yaml.safe_load(Path(f"{stage}.yaml").read_text())
        recipe["data"]["store"] = store
        Path(f"{stage}.yaml").write_text(yaml.safe_dump(recipe))
    prepare = {store: ["prepare raw {store}", "split {store} --folds 2"]}
    own = {"seeds": [0, 1], "folds": [0], "labels": ["all"], "results": "kept", "hypotheses": []}
    return read_study(write_study(**{**own, "prepare": prepare, **changes}))


def keep(study: Study) -> None:
    """Keep the results of all jobs of a study, with the configuration that a run writes, and take its folder away."""
    jobs = [job for job in progress_of(study).jobs.jobs if job.kind != "prepare"]
    for job in jobs:
        finish(Records(study), job)
        config = json.dumps(composed(job.layers))  # JSON is YAML
        (Records(study).run_folder(job) / "config.yaml").write_text(config)
    keep_results(study, jobs)
    shutil.rmtree(study.folder)


def done(study: Study) -> list[Job]:
    restore_results(study)
    found: Progress = progress_of(study, is_read_only=True)
    return found.of_state("done")


def on_disk(store: str) -> None:
    if store != "cubes":
        shutil.copytree("cubes", store)


def test_a_result_is_known_by_its_store_whatever_an_arm_is_called(write_study):
    study = in_stores(write_study, "stores/a")
    on_disk("stores/a")
    keep(study)
    shutil.rmtree("stores/a")
    found = done(in_stores(write_study, "stores/a", name="other", arms=OTHERS))
    assert {job.setting["arm"] for job in found} == {"scratch", "masked"}
    assert len(found) == 5  # an encoder, and two arms of two seeds


@pytest.mark.parametrize(("kept", "wanted"), [("stores/a", "stores/b"), ("stores/a", "more/a"), ("cubes", "cubes")])
def test_another_store_or_one_that_may_be_another_is_not_taken_for_it(write_study, kept: str, wanted: str):
    """Of a path outside of the working directory a result keeps the last name, so `cubes` alone may be any folder."""
    study = in_stores(write_study, kept)
    on_disk(kept)
    keep(study)
    shutil.rmtree(kept)
    assert {job.setting["arm"] for job in done(in_stores(write_study, wanted, name="other", arms=OTHERS))} <= {
        "scratch"
    }


def test_an_arm_of_the_same_name_on_another_store_is_another(write_study):
    study = in_stores(write_study, "stores/a")
    on_disk("stores/a")
    keep(study)
    assert done(in_stores(write_study, "stores/b", name="other")) == []


def test_a_store_whose_content_changed_between_two_results_is_not_guessed(write_study):
    first = in_stores(write_study, "stores/a")
    on_disk("stores/a")
    keep(first)
    splits = Path("stores/a/splits.json")
    document = json.loads(splits.read_text())
    splits.write_text(json.dumps(document | {"folds": document["folds"][::-1]}))
    keep(in_stores(write_study, "stores/a", name="second", arms={"scratch": {}, "m": {"pretrain": "pretrain.yaml"}}))
    shutil.rmtree("stores/a")
    found = done(in_stores(write_study, "stores/a", name="other", arms=OTHERS))
    assert {job.setting["arm"] for job in found} <= {"scratch"}
