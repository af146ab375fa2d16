from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from medpretrain3d.command_line.composition import composed
from medpretrain3d.errors import UserError
from medpretrain3d.study.document import read_study
from medpretrain3d.study.run_study import progress_of
from medpretrain3d.study.speeds import minutes_per_step
from medpretrain3d.study.trials import try_steps


def write_run(folder: Path, config: Any = None, samples_per_s: float | None = None, **facts: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"stage": "finetune", **facts}))
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if samples_per_s is not None:
        (folder / "metrics.csv").write_text(f"epoch,step,perf/samples_per_s\n0,9,{samples_per_s}\n")
    return folder


def test_a_run_that_is_done_says_it_by_its_minutes_and_one_on_its_way_by_its_first_steps(tmp_path: Path):
    done = write_run(tmp_path / "a", finished=True, minutes=50.0, steps=100)
    assert minutes_per_step(done, 2) == 0.5
    assert minutes_per_step(write_run(tmp_path / "b", samples_per_s=0.5), 2) == pytest.approx(4 / 60)
    short = write_run(tmp_path / "c", samples_per_s=0.5, finished=True, minutes=9.0, steps=20)
    assert minutes_per_step(short, 2) == pytest.approx(4 / 60)  # most of the nine minutes were its start and test
    assert minutes_per_step(write_run(tmp_path / "d"), 2) is None
    assert minutes_per_step(tmp_path / "nothing", 2) is None


def test_runs_of_other_studies_with_the_same_network_patch_and_batch_say_it_too(write_study, tmp_path: Path):
    study = read_study(write_study(seeds=1, folds=[0], labels=["all"], arms={"scratch": {}}, hypotheses=[]))
    before = progress_of(study)
    (job,) = before.jobs.jobs
    assert before.hours(job) is None
    config = composed(job.layers)
    other = {**config, "data": {**config["data"], "patch": [24, 24, 24]}}
    write_run(tmp_path / "runs/x/other", other, finished=True, minutes=500.0, steps=100)
    now = progress_of(study)
    assert now.hours(now.jobs.jobs[0]) is None
    write_run(tmp_path / "runs/x/alike", config, finished=True, minutes=60.0, steps=100)
    now = progress_of(study)
    (job,) = now.jobs.jobs
    assert now.hours(job) == pytest.approx(2 * 0.6 / 60)
    assert now.speed_lines() == ["hours of finetune cubes are those of 1 run like it, as runs/x/alike"]
    elsewhere = write_run(tmp_path / "pilots/y/z", config, finished=True, minutes=120.0, steps=100)
    both = progress_of(study, pilots=[elsewhere.parent.parent])
    assert both.hours(both.jobs.jobs[0]) == pytest.approx(2 * 0.9 / 60)  # the median of 0.6 and 1.2


def test_runs_of_the_study_with_another_network_patch_or_batch_say_nothing(write_study, tmp_path: Path):
    second = yaml.safe_load((tmp_path / "pretrain.yaml").read_text())
    second["data"]["batch_size"] = 4
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(second))
    arms = {
        "scratch": {},
        "two": {"pretrain": ["pretrain.yaml", "second.yaml"]},
        "wide": {"finetune": {"data.patch": [24, 24, 24]}},
        "taught": {"finetune": {"model.semi_supervised": {"class_path": "MeanTeacher"}, "data.unlabeled": "cubes"}},
    }
    labels = {1: {"with": {"data.batch_size": 8}}, "all": {}}
    study = read_study(write_study(seeds=2, folds=[0], labels=labels, arms=arms, hypotheses=[]))
    before = progress_of(study)
    assert {before.hours(job) for job in before.jobs.jobs} == {None}
    done = [job for job in before.jobs.jobs if job.name in ("pretrain two, stage 1, seed 0", FIRST)]
    assert len(done) == 2
    for job in done:
        write_run(before.records.run_folder(job), stage=job.kind, finished=True, minutes=60.0, steps=100)
    now = progress_of(study)
    told = {job.name for job in now.jobs.jobs if now.hours(job) is not None}
    # Of arms that begin otherwise a step takes as long; of other stages, patches, batches and teachers it does not.
    assert told == {
        "pretrain two, stage 1, seed 0",
        *(f"finetune {arm}, cubes, labels all, seed {seed}, fold 0" for arm in ("scratch", "two") for seed in (0, 1)),
    }


FIRST = "finetune scratch, cubes, labels all, seed 0, fold 0"


def test_too_few_steps_are_not_tried(write_study):
    with pytest.raises(UserError, match="--try-steps 3: speed is measured over 10 steps"):
        try_steps(progress_of(read_study(write_study())), 3)


@pytest.mark.slow
def test_first_steps_of_each_kind_of_job_say_how_long_it_takes(write_study, tmp_path: Path):
    for stage in ("pretrain", "finetune"):  # as long as a real one: only its first steps are made
        recipe = yaml.safe_load((tmp_path / f"{stage}.yaml").read_text())
        recipe["trainer"] |= {"max_steps": 100_000, "val_check_interval": 100_000}
        (tmp_path / f"{stage}.yaml").write_text(yaml.safe_dump(recipe))
    arms = {"scratch": {}, "mae": {"pretrain": "pretrain.yaml"}}
    study = read_study(write_study(seeds=2, folds=[0, 1], labels=["all"], arms=arms))
    lines = try_steps(progress_of(study), 10)
    assert lines == [
        "pretrain mae, seed 0: 10 first steps tried",
        "finetune scratch, cubes, labels all, seed 0, fold 0: 10 first steps tried",
    ]
    progress = progress_of(study)
    hours = [progress.hours(job) for job in progress.jobs.jobs]
    assert len(hours) == 1 + 2 * 2 * 2
    assert all(one is not None and one > 0 for one in hours)
    assert set(progress.states.values()) == {"waiting"}
    assert try_steps(progress, 10) == []
