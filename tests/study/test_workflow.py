"""What the engine of a study is told, and what it tells the jobs of a cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medpretrain3d.study.jobs import Job
from medpretrain3d.study.workflow import TABLE, Machine, _priorities, _run_snakemake, _words

from .test_launch import write_record

ROOT = Path(__file__).resolve().parents[2]
ENGINE = """
import json, os, sys
with open(sys.argv[1], "w") as file:
    json.dump({name: value for name, value in os.environ.items() if name.startswith("SBATCH_")}, file)
"""
WAITING_ENGINE = """
import os, signal, time
for signum in (signal.SIGTERM, signal.SIGINT):
    signal.signal(signum, lambda signum, _: os._exit(signum))
os.kill(os.getppid(), signal.SIGHUP)
time.sleep(60)
"""
STUDY = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup
from medpretrain3d.interruption import Interrupted, signals
from medpretrain3d.study import workflow
signals.take()
signals.check = lambda: None
print(workflow._run_snakemake([sys.executable, "-c", sys.argv[1]], Path(sys.argv[2]), workflow.Machine(sys.argv[3]))[0])
"""


@pytest.mark.parametrize(
    ("executor", "expected"),
    [
        ("slurm", {"SBATCH_REQUEUE": "1", "SBATCH_OPEN_MODE": "truncate", "SBATCH_SIGNAL": "USR1@90"}),
        ("local", {"SBATCH_OPEN_MODE": "truncate"}),
    ],
)
def test_jobs_of_a_cluster_are_queued_again(tmp_path, monkeypatch, executor, expected):
    monkeypatch.setenv("SBATCH_OPEN_MODE", "truncate")  # what a user sets wins
    words = [sys.executable, "-c", ENGINE, str(tmp_path / "environment")]
    assert _run_snakemake(words, tmp_path / "log", Machine(executor))[0] == 0
    assert json.loads((tmp_path / "environment").read_text()) == expected


def test_an_engine_of_a_cluster_that_is_told_to_end_cancels_what_it_submitted(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", STUDY, WAITING_ENGINE, str(tmp_path / "log"), "slurm"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == (f"{int(signal.SIGINT)}\n", 0), done.stderr


@pytest.mark.parametrize("name", ["Project #3", "mae: v2", "{x}", "it's, a"])
def test_a_study_runs_wherever_its_folder_is(tmp_path, monkeypatch, name):
    """Snakemake reads values of its configuration as YAML, and words in braces as wildcards."""
    project = tmp_path / name
    folder = project / "runs" / name
    (folder / "jobs").mkdir(parents=True)
    made = project / "made"
    made.mkdir()
    (made / "predictions.json").write_text("{}")
    write_record(folder / "jobs", Path("made"))  # relative to the project
    monkeypatch.chdir(project)
    facts = {"name": "x", "needs": [], "priority": 1, "cores": 1, "gpus": 0, "mem_mb": 1, "minutes": 1}
    table = {"folder": os.getcwd(), "devices": "", "jobs": {"prepare-00": facts}}
    (folder / TABLE).write_text(json.dumps(table))
    machine = Machine(cores=1)
    code, said = _run_snakemake(_words(folder, machine), folder / "log", machine)
    assert code == 0, said
    assert (folder / "jobs" / "prepare-00.done").is_file()


def test_jobs_begin_in_their_order_and_a_pretraining_with_the_first_that_needs_it():
    def job(kind, name, *needs):
        return Job(kind, {"name": name}, {"name": name}, "1", needs=needs)

    store = job("prepare", "store")
    spark, mae = job("pretrain", "spark", store), job("pretrain", "mae", store)
    runs = [job("finetune", "scratch"), job("finetune", "mae", mae), job("finetune", "spark", spark)]
    priorities = _priorities([spark, mae, *runs])
    in_turn = sorted([spark, mae, *runs], key=lambda one: (-priorities[one.identity], one.kind != "pretrain"))
    assert [one.setting["name"] for one in in_turn] == ["scratch", "mae", "mae", "spark", "spark"]
    assert priorities[store.identity] == priorities[mae.identity] == priorities[runs[1].identity]
