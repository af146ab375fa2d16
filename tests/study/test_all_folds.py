"""`finetune --folds all` at toy size, its jobs in this process; with Snakemake they are run in test_run_study."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import pytest

from finetune import __main__ as finetune
from medpretrain3d import cli
from medpretrain3d.inference import load_bundle
from medpretrain3d.study import launch, run_study
from medpretrain3d.study.jobs import Job
from medpretrain3d.study.records import Records
from medpretrain3d.study.workflow import Machine

COMMAND = ["finetune", "--config", "finetune.yaml", "--folds", "all", "--model.optim.lr", "0.003"]


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Has jobs and their programs run here, one after the other; the jobs whose program was."""
    begun: list[str] = []

    def run_jobs(jobs: Sequence[Job], records: Records, machine: Machine) -> None:
        for job in jobs:
            records.write(job)
            assert launch.main([str(records.path(job, "json")), "--folder", str(tmp_path)]) == 0

    def run_program(words: list[str], log: IO[bytes], environment: dict[str, str] | None = None) -> int:
        assert words[1:4] == ["-m", "medpretrain3d", "finetune"]
        begun.append(Path(log.name).stem)
        finetune.main(words[4:])
        return 0

    monkeypatch.setattr(run_study, "run_jobs", run_jobs)
    monkeypatch.setattr(launch, "run_program", run_program)
    return begun


def test_each_fold_is_trained_once_and_all_make_one_result(
    write_study: Callable[..., Path], programs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study()
    assert cli.main(COMMAND) == 0
    assert len(set(programs)) == len(programs) == 2
    folder, told = tmp_path / "runs" / "finetune_folds", capsys.readouterr().out
    assert "finetune_folds: 2 jobs to run (finetune), 0 reused" in told
    runs = {run: json.loads((run / "run.json").read_text()) for run in sorted(folder.glob("*fold[01]*"))}
    assert [one["fold"] for one in runs.values()] == [0, 1]
    assert {one["steps"] for one in runs.values()} == {2}
    for run in runs:
        assert load_bundle(run / "bundle").classes == ("cube",)
        assert "lr: 0.003" in (run / "config.yaml").read_text()
    found = json.loads((folder / "result" / "predictions.json").read_text())["predictions"]
    splits = json.loads((tmp_path / "cubes" / "splits.json").read_text())
    held_out = {case for fold in splits["folds"] for case in fold["val"]}
    assert {one["case"] for one in found} == held_out
    metrics = json.loads((folder / "result" / "metrics.json").read_text())
    assert (metrics["num_cases"], len(held_out)) == (6, 6)
    members = sorted((folder / "result" / "ensemble").glob("fold_*/bundle.json"))
    assert [path.parent.name for path in members] == ["fold_0", "fold_1"]

    assert cli.main(COMMAND) == 0
    assert len(programs) == 2
    assert [fold["run"] for fold in metrics["cross_validation"]["folds"]] == [run.name for run in runs]
    assert "mean ± std" in capsys.readouterr().out
    assert json.loads((folder / "result" / "metrics.json").read_text()) == metrics

    assert cli.main([*COMMAND, "--seed_everything", "1"]) == 2  # before it trains anything
    told = capsys.readouterr().err
    assert len(programs) == 2
    assert f"is the result of other folds (runs {', '.join(run.name for run in runs)}), wanted of scratch" in told
    assert "name another folder with -o" in told
    assert json.loads((folder / "result" / "metrics.json").read_text()) == metrics
    assert cli.main([*COMMAND, "--seed_everything", "1", "-o", str(folder / "seed_1")]) == 0
    assert len(programs) == 4
    assert json.loads((folder / "seed_1" / "metrics.json").read_text()) != metrics
