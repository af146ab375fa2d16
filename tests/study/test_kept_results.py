"""Results that stay with a repository: what another clone takes from them, and what it has to run again."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest
import yaml

from medpretrain3d.atomic import locked_folder, write_text
from medpretrain3d.errors import UserError
from medpretrain3d.interruption import Interrupted
from medpretrain3d.study import run_study
from medpretrain3d.study.document import read_study
from medpretrain3d.study.kept_results import STUDY_LOCK, keep_results, restore_beside, restore_results
from medpretrain3d.study.records import Records
from medpretrain3d.study.run_study import progress_of
from medpretrain3d.study.workflow import Machine

from .test_progress import finish


@pytest.fixture
def study(write_study):
    """Two arms at one budget and seed, all done: one encoder, two fine-tunings."""
    study = read_study(write_study(seeds=1, folds=[0], labels=["all"], results="kept"))
    for job in progress_of(study).jobs.jobs:
        finish(Records(study), job)
        folder = Records(study).run_folder(job)
        (folder / "metrics.csv").write_text("step,loss\n1,0.5\n")
        (folder / "picture.png").write_bytes(b"png")
        weights = folder / ("encoder" if job.kind == "pretrain" else "bundle") / "weights.safetensors"
        weights.write_bytes(b"weights")
    return study


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_another_clone_finds_everything_done_without_weights_and_pictures(study):
    jobs = progress_of(study).of_state("done")
    assert keep_results(study, jobs) == 3
    kept = contents(study.results)
    assert keep_results(study, jobs) == 0
    before = contents(study.folder)
    shutil.rmtree(study.folder)
    assert restore_results(study) == 3
    assert restore_results(study) == 0
    assert len(progress_of(study).of_state("done")) == 3
    after = contents(study.folder)
    lost = {name for name in before if name not in after}
    assert {name.rpartition(".")[2] for name in lost} == {"png", "safetensors", "yaml"}  # yaml: layers of recipes
    assert all(after[name] == before[name] for name in after if not name.startswith("jobs/"))
    shutil.rmtree(study.results)
    assert keep_results(study, progress_of(study).of_state("done")) == 3
    assert contents(study.results) == kept  # the bytes depend on nothing but the results


def test_absolute_paths_stay_on_the_machine(write_study, tmp_path):
    options = {"finetune": {"trainer.default_root_dir": str(tmp_path / "logs")}}
    arms = {"scratch": options, "mae": {"pretrain": "pretrain.yaml"}}
    changes = {"seeds": 1, "folds": [0], "labels": ["all"], "arms": arms, "root": str(tmp_path / "anna")}
    study = read_study(write_study(**changes, results="kept"))
    for job in progress_of(study).jobs.jobs:
        Records(study).write(job)
        finish(Records(study), job)
        text = f"data: {{store: {tmp_path}/scans of mine/cubes}}\nrun: {{name: a, root: {tmp_path}/anna}}\n"
        (Records(study).run_folder(job) / "config.yaml").write_text(text)
    jobs = progress_of(study).of_state("done")
    before = contents(study.folder)
    assert keep_results(study, jobs) == 3
    for path in study.results.glob("*.tar.xz"):
        with tarfile.open(path) as archive:
            texts = {one.name: archive.extractfile(one).read().decode() for one in archive}
        assert not [name for name, text in texts.items() if str(tmp_path) in text or "anna" in text]
        assert yaml.safe_load(texts["run/config.yaml"]) == {"data": {"store": "cubes"}, "run": {"name": "a"}}
    for path in (study.folder / "jobs").glob("finetune-*.done"):
        path.unlink()
    assert restore_results(study) == 2  # by the runs that are there, which stay as they are
    assert {name: text for name, text in contents(study.folder).items() if not name.startswith("jobs/")} == {
        name: text for name, text in before.items() if not name.startswith("jobs/")
    }
    shutil.rmtree(study.folder)
    assert restore_results(study) == 3
    assert len(progress_of(study).of_state("done")) == 3
    shutil.rmtree("cubes")  # of data that are not there a result is known by its record
    unseen = read_study(write_study(**changes, results="kept", prepare={"cubes": "prepare raw {store}"}))
    assert [job.kind for job in progress_of(unseen, is_read_only=True).of_state("done")] == [
        "pretrain",
        *["finetune"] * 2,
    ]


def test_the_date_of_a_result_goes_with_it_and_results_without_one_are_read(study):
    jobs = progress_of(study).of_state("done")
    before = [date for date in Records(study).result_dates().values() if date]
    keep_results(study, jobs)  # of an earlier version: `finish` writes no date
    shutil.rmtree(study.folder)
    restore_results(study)
    assert sorted(Records(study).result_dates().values()) == sorted(before)
    for path in study.results.iterdir():
        with tarfile.open(path) as archive:
            files = {member.name: archive.extractfile(member).read() for member in archive}
        files["job.done"] = b'{"minutes": 6}'
        with tarfile.open(path, "w:xz") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    shutil.rmtree(study.folder)
    assert restore_results(study) == 3
    assert set(Records(study).result_dates().values()) == {None}
    assert len(progress_of(study, keeps_other_code=True).of_state("done")) == 3


def test_a_study_that_is_told_to_end_keeps_what_was_finished(study, monkeypatch, capsys):
    last = progress_of(study).of_state("done")[-1]
    Records(study).path(last, "done").unlink()

    def told_to_end(*_):
        raise Interrupted(15)

    monkeypatch.setattr(run_study, "run_jobs", told_to_end)
    with pytest.raises(Interrupted):
        run_study.run_study(study, Machine())
    assert f"{study.results}: results of 2 jobs are kept there now" in capsys.readouterr().out
    assert len(list(study.results.glob("*.tar.xz"))) == 2


def test_an_encoder_without_weights_is_made_again_only_where_a_run_wants_it(study, write_study, monkeypatch, capsys):
    keep_results(study, progress_of(study).of_state("done"))
    shutil.rmtree(study.folder)
    restore_results(study)
    begun = []
    monkeypatch.setattr(run_study, "run_jobs", lambda jobs, records, machine: begun.extend(job.name for job in jobs))
    more = read_study(
        write_study(
            seeds=1,
            folds=[0],
            labels=["all"],
            results="kept",
            arms={"scratch": {}, "mae": {"pretrain": "pretrain.yaml"}, "low": {"finetune": {"model.optim.lr": 0.1}}},
        )
    )
    run_study.run_missing(more, Machine())
    assert begun == ["finetune low, cubes, labels all, seed 0, fold 0"]
    begun.clear()
    more = read_study(write_study(seeds=1, folds=[0, 1], labels=["all"], results="kept"))
    (encoder,) = progress_of(more).jobs.of_kind("pretrain")
    folder = Records(more).run_folder(encoder)
    run_study.run_missing(more, Machine())
    assert sorted(begun) == [
        "finetune mae, cubes, labels all, seed 0, fold 1",
        "finetune scratch, cubes, labels all, seed 0, fold 1",
        "pretrain mae, seed 0",
    ]
    assert "pretrain mae, seed 0: runs again, its weights are wanted and were not kept" in capsys.readouterr().out
    assert not folder.exists()  # else its program would find it finished


def test_weights_that_are_not_there_are_missed_also_where_results_are_kept_nowhere(study, write_study, monkeypatch):
    keep_results(study, progress_of(study).of_state("done"))
    shutil.rmtree(study.folder)
    restore_results(study)
    monkeypatch.setattr(run_study, "run_jobs", lambda jobs, records, machine: None)
    more = read_study(write_study(seeds=1, folds=[0, 1], labels=["all"]))
    progress = progress_of(more)
    (encoder,) = progress.jobs.of_kind("pretrain")
    assert progress.states[encoder] == "waiting"
    folder = Records(more).run_folder(encoder)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()
    run_study.run_missing(more, Machine())
    assert (folder / "checkpoints" / "last.ckpt").is_file()  # from which it goes on
    assert not (folder / "encoder").exists()


def test_a_command_that_reads_takes_nothing_while_another_call_is_at_work(study):
    keep_results(study, progress_of(study).of_state("done"))
    shutil.rmtree(study.folder)
    with locked_folder(study.folder, STUDY_LOCK, clean=False):
        assert restore_beside(study) == 0
        assert not (study.folder / "jobs").exists()
    assert restore_beside(study) == 3


def test_a_run_whose_folder_was_taken_away_comes_back_and_is_not_trained_again(study):
    keep_results(study, progress_of(study).of_state("done"))
    job = progress_of(study).jobs.jobs[-1]
    shutil.rmtree(Records(study).run_folder(job))
    assert Records(study).path(job, "done").is_file()
    assert len(progress_of(study).of_state("done")) == 2
    assert restore_results(study) == 1
    assert len(progress_of(study).of_state("done")) == 3


def test_a_run_that_is_on_its_way_stays_as_it_is(study):
    keep_results(study, progress_of(study).of_state("done"))
    progress = progress_of(study)
    job = progress.jobs.jobs[-1]
    Records(study).path(job, "done").unlink()
    (Records(study).run_folder(job) / "run.json").write_text('{"stage": "finetune", "finished": false}')
    assert restore_results(study) == 0
    assert progress.states[job] == "interrupted"


@pytest.mark.parametrize("ending", [".json", ".done"])
def test_a_call_that_was_killed_after_the_folder_of_a_run_is_completed_by_the_next(study, monkeypatch, ending):
    keep_results(study, progress_of(study).of_state("done"))
    shutil.rmtree(study.folder)

    def killed(path: Path, text: str) -> None:
        if path.suffix == ending and path.parent.name == "jobs":
            raise KeyboardInterrupt
        write_text(path, text)

    with monkeypatch.context() as patch:
        patch.setattr("medpretrain3d.study.kept_results.write_text", killed)
        patch.setattr("medpretrain3d.documents.artifact.write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            restore_results(study)
    assert len(list(study.folder.rglob("run.json"))) == 1
    assert restore_results(study) == 3
    assert len(progress_of(study).of_state("done")) == 3


@pytest.mark.parametrize("fault", ["truncated", "renamed", "without a run", "outside"])
def test_a_damaged_result_is_one_line_and_leaves_nothing_behind(study, fault):
    keep_results(study, progress_of(study).of_state("done"))
    shutil.rmtree(study.folder)
    path, *others = study.results.iterdir()
    for other in others:
        other.unlink()
    with tarfile.open(path) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif fault == "renamed":
        path = path.rename(path.with_name("finetune-0123456789abcdef.tar.xz"))
    else:
        if fault == "without a run":
            del files["run/run.json"]
        else:
            files["job.json"] = files["job.json"].replace(b'"folder": "runs/toy/', b'"folder": "runs/toy/..", "x": "')
        path.unlink()
        with tarfile.open(path, "w:xz") as archive:
            for name, content in files.items():
                (study.results / "one").write_bytes(content)
                archive.add(study.results / "one", name)
    with pytest.raises(UserError, match=path.name) as caught:
        restore_results(study)
    assert "\n" not in str(caught.value)
    assert not study.folder.exists() or contents(study.folder) == {}
