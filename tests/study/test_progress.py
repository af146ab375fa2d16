from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from medpretrain3d.study import expansion, progress, run_study
from medpretrain3d.study.document import read_study
from medpretrain3d.study.jobs import Job
from medpretrain3d.study.record import write_failed
from medpretrain3d.study.records import Records
from medpretrain3d.study.run_study import progress_of
from medpretrain3d.study.workflow import Machine


def finish(records: Records, job: Job, minutes: float = 6.0, steps: int = 2) -> None:
    """Leave behind what a job leaves."""
    records.write(job)
    folder = records.run_folder(job)
    product = folder / ("encoder/encoder.json" if job.kind == "pretrain" else "bundle/bundle.json")
    product.parent.mkdir(parents=True)
    product.write_text("{}")
    (product.parent / "weights.safetensors").write_bytes(b"weights")
    (folder / "run.json").write_text(
        json.dumps({"stage": job.kind, "finished": True, "minutes": minutes, "steps": steps})
    )
    records.path(job, "done").write_text('{"minutes": 6}')


def test_states_are_what_is_on_the_disk(write_study):
    study = read_study(write_study())
    records = Records(study)
    done, gone, failed, begun, *rest = progress_of(study).jobs.jobs
    for job in (done, gone):
        finish(records, job)
    (records.run_folder(gone) / "bundle" / "bundle.json").unlink()
    records.write(failed)
    write_failed(records.path(failed, "failed"), 2, "its program ended with exit code 2")
    records.path(failed, "log").write_text("\n".join(f"line {number}" for number in range(9)))
    records.write(begun)
    (records.run_folder(begun)).mkdir(parents=True)
    (records.run_folder(begun) / "run.json").write_text('{"stage": "finetune"}')
    progress = progress_of(study)
    assert [progress.states[job] for job in progress.jobs.jobs[:5]] == [
        "done",
        "interrupted",
        "failed",
        "interrupted",
        "waiting",
    ]
    lines = progress.failure_lines()
    assert lines[0] == f"{failed.name}: failed, its program ended with exit code 2"
    assert [line.strip() for line in lines[1:6]] == [f"line {number}" for number in range(4, 9)]
    assert rest


def test_a_job_runs_as_long_as_its_process_lives_and_is_interrupted_at_once_when_that_is_killed(write_study):
    study = read_study(write_study())
    records, job = Records(study), progress_of(study).jobs.jobs[1]
    records.write(job)
    records.run_folder(job).mkdir(parents=True)
    (records.run_folder(job) / "run.json").write_text('{"stage": "finetune"}')
    (records.run_folder(job) / "metrics.csv").write_text("epoch,step,train/loss\n0,0,0.5\n")
    script = (
        "import sys, time; from pathlib import Path; from medpretrain3d.atomic import locked\n"
        "with locked(Path(sys.argv[1])): print('locked', flush=True); time.sleep(600)"
    )
    words = [sys.executable, "-c", script, str(records.path(job, "done"))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "locked\n"
        running = progress_of(study)
        assert (running.states[job_of(running, job)], running.states[job_of(running, job, 1)]) == ("running", "waiting")
        assert "running, step 1 of 2" in str(running.table())
        program.kill()
    killed = progress_of(study)
    assert killed.states[job_of(killed, job)] == "interrupted"
    assert "interrupted, step 1 of 2" in str(killed.table())


def job_of(progress, job: Job, offset: int = 0) -> Job:
    """The same job, or one behind it, of a later look at the study."""
    jobs = progress.jobs.jobs
    return jobs[[one.identity for one in jobs].index(job.identity) + offset]


def test_hours_to_come_are_those_of_runs_like_it_times_their_steps(write_study):
    study = read_study(write_study())
    before = progress_of(study)
    assert [before.hours(job) for job in before.jobs.jobs[:3]] == [None, None, None]
    finish(Records(study), before.jobs.jobs[1], minutes=6.0, steps=2)
    now = progress_of(study)
    assert [now.hours(job) for job in now.jobs.jobs[:3]] == [None, 0.1, 0.1]  # two steps of three minutes
    assert str(now.summary()).splitlines()[-1].split() == ["finetune", "16", "1", "0", "15", "0.100", "1.5"]
    others = {"scratch": {"finetune": {"trainer.max_steps": 20}}, "mae": {"pretrain": "pretrain.yaml"}}
    longer = progress_of(read_study(write_study(arms=others)))
    assert longer.hours(longer.jobs.jobs[1]) is None  # no run of this document is there


def test_what_changed_is_said_with_both_values(write_study):
    study = read_study(write_study(seeds=1, folds=[0], labels=["all"]))
    for job in progress_of(study).jobs.jobs:
        finish(Records(study), job)
    arms = {"scratch": {}, "mae": {"pretrain": "pretrain.yaml", "with": {"model.objective.init_args.mask_ratio": 0.5}}}
    now = progress_of(read_study(write_study(seeds=1, folds=[0], labels=["all"], arms=arms)))
    assert now.change_lines(["pretrain"]) == [
        "pretrain mae, seed 0: runs again, model.objective.init_args.mask_ratio absent -> 0.5"
    ]
    (line,) = now.change_lines(["finetune"])
    assert line.startswith("finetune mae, cubes, labels all, seed 0, fold 0: runs again, what it begins from")
    back = progress_of(study)
    assert len(back.of_state("done")) == len(back.jobs.jobs)


def test_results_of_other_code_are_kept_on_demand_and_counted(write_study, monkeypatch):
    study = read_study(write_study(seeds=1, folds=[0], labels=["all"]))
    for job in progress_of(study).jobs.jobs:
        finish(Records(study), job)
    monkeypatch.setattr(expansion, "code_version", lambda kind: "0+other")
    anew = progress_of(study)
    assert not anew.of_state("done")
    assert all("code 0" in line for line in anew.change_lines(["pretrain", "finetune"]))
    kept = progress_of(study, keeps_other_code=True)
    assert len(kept.of_state("done")) == 3
    assert sum(int(line.split()[0]) for line in kept.kept_lines()) == 3
    assert "0+other" not in str(kept.table())


def test_of_results_of_several_codes_that_of_the_code_as_it_is_is_taken_and_else_the_newest(write_study, monkeypatch):
    study = read_study(write_study(seeds=1, folds=[0], labels=["all"], arms={"scratch": {}}, hypotheses=[]))
    records, own = Records(study), expansion.code_version("finetune")

    def finished(code: str, date: str) -> None:
        monkeypatch.setattr(expansion, "code_version", lambda kind: code)
        (job,) = progress_of(study).jobs.jobs
        finish(records, job)
        records.path(job, "done").write_text(json.dumps({"minutes": 6, "date": date}))

    def taken(code: str) -> tuple[str, list[str]]:
        monkeypatch.setattr(expansion, "code_version", lambda kind: code)
        found = progress_of(study, keeps_other_code=True)
        assert len(found.of_state("done")) == 1
        return found.table().rows[0][-1], found.kept_lines()

    finished("0+newer", "2026-02-01T00:00:00+00:00")  # written first, so that the times of files say the opposite
    finished("0+older", "2026-01-01T00:00:00+00:00")
    assert taken(own) == ("0+newer", ["1 result of code 0+newer is kept"])
    finished(own, "2025-12-01T00:00:00+00:00")
    assert taken(own) == (own, [])
    assert taken("0+older") == ("0+older", [])


def test_a_report_says_which_code_made_what_it_keeps(write_study, monkeypatch):
    study = read_study(write_study(seeds=1, folds=[0], labels=["all"]))
    for job in progress_of(study).jobs.jobs:
        finish(Records(study), job)
    monkeypatch.setattr(expansion, "code_version", lambda kind: "0+other")
    written = []
    monkeypatch.setattr(run_study, "write_report", lambda report, path: written.append(report))
    monkeypatch.setattr(run_study, "write_tables", lambda report, folder: None)
    run_study.report_study(study, keeps_other_code=True)
    (report,) = written
    kept = [note for note in report.notes if note.endswith(("is kept", "are kept"))]
    assert kept == progress_of(study, keeps_other_code=True).kept_lines() != []


def test_the_plots_of_a_study_are_written_where_asked(write_study, tmp_path: Path, capsys):
    study = read_study(write_study(seeds=1, folds=[0], labels=["all"]))
    for job in progress_of(study).jobs.jobs:
        finish(Records(study), job)
        (Records(study).run_folder(job) / "metrics.csv").write_text("epoch,step,train/loss\n0,0,0.5\n0,1,0.25\n")
    run_study.report_study(study)
    assert not list(tmp_path.rglob("*.svg"))
    run_study.report_study(study, figures=tmp_path / "plots")
    written = list((tmp_path / "plots").glob("*.svg"))
    assert all("<svg" in one.read_text() for one in written)
    assert f"plots: {len(written)} plot" in capsys.readouterr().out
    assert written


def test_a_run_that_was_begun_goes_on_in_its_folder(write_study, tmp_path: Path):
    study = read_study(write_study())
    records, job = Records(study), progress_of(study).jobs.jobs[1]
    records.write(job)
    folder = records.run_folder(job)
    records.write(job)
    assert records.run_folder(job) == folder
    command = json.loads(records.path(job).read_text())["commands"][0]
    assert command[0] == "finetune"
    assert (tmp_path / command[-1]).read_text().count(folder.name) == 1


def test_what_never_ran_does_not_run_again_and_many_that_change_alike_are_one_line(write_study, monkeypatch):
    study = read_study(write_study(seeds=3, labels=["all"]))
    jobs = progress_of(study).jobs.jobs
    for job in jobs:
        Records(study).write(job)
    monkeypatch.setattr(expansion, "code_version", lambda kind: "0+other")
    assert progress_of(study).change_lines(["pretrain", "finetune"]) == []
    finish(Records(study), jobs[1])
    Records(study).path(jobs[2], "log").touch()  # begun, and nothing is left of it
    lines = progress_of(study).change_lines(["pretrain", "finetune"])
    assert [line.partition(":")[0] for line in lines] == [jobs[1].name, jobs[2].name]
    monkeypatch.setattr(progress, "MAX_ALIKE", 1)
    (line,) = progress_of(study).change_lines(["pretrain", "finetune"])
    assert line == f"2 jobs run again, code {jobs[1].code} -> 0+other: {jobs[1].name}, to {jobs[2].name}"


def test_an_engine_that_was_told_to_stop_early_has_not_failed(write_study, monkeypatch, capsys):
    monkeypatch.setattr(run_study, "run_jobs", lambda jobs, records, machine: None)
    assert run_study.run_study(read_study(write_study()), Machine()) == 1
    assert capsys.readouterr().out.endswith("toy: 17 of 17 jobs not run, none failed; call again for the rest\n")


def test_a_report_says_which_runs_of_its_study_it_lacks(write_study, capsys):
    study = read_study(write_study(labels=["all"], folds=[0], seeds=3))
    records, jobs = Records(study), progress_of(study).jobs
    lost, late, *done = jobs.of_kind("finetune")[::-1]
    for job in (*jobs.of_kind("pretrain"), *done):
        finish(records, job)
    records.write(lost)
    write_failed(records.path(lost, "failed"), 1, "its loss is not finite")
    assert run_study.report_study(study) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "are not in this report" in line)
    assert line == (
        f"note: 2 of 6 runs of this study are not in this report: 1 failed ({lost.name}), 1 waiting ({late.name}); "
        "what it says is of the others"
    )
    assert "2 of 6 runs of this study are not in this report" in (study.folder / "report.html").read_text()
    for job in (lost, late):
        finish(records, job)
    run_study.report_study(study)
    assert "not in this report" not in capsys.readouterr().out
