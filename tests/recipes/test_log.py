"""What a run prints where there is no terminal, and keeps in its folder."""

from __future__ import annotations

import re

import pytest

from pretrain import __main__ as pretrain_program
from pretrain.module import PretrainModule

from .conftest import TINY_FINETUNE, TINY_PRETRAIN, TWO_PROCESSES, run_program

PROGRESS = (
    r"step \d+ of 6 \(\d+ %\), loss [\d.e+-]+, lr [\d.e+-]+, [\d.e+-]+ samples/s, \d+ % of the time waiting for data, "
    r"[\d.]+ GiB of memory at most, .* trained, (time left not known yet|about .* left)"
)
LINES = {
    "pretrain": [
        r"threads: .*",
        r"precision .*",
        r"pretrain: mae of ResEnc-XXS \([\d.]+ M parameters\) into {run}; data cubes, 3 training cases; "
        r"1 x CPU with 1 thread\(s\) each; batch 2 \(2 a process x 1 x 1 accumulated\); precision 32-true; 6 steps; "
        r"wandb disabled; from the beginning; begun .*",
        PROGRESS,
        r"step 3: checkpoint {run}/checkpoints/step_0000003.ckpt, [\d.]+ MB in .*",
        r"step 3: validation took .*: val/loss [\d.]+",
        r"step 6: checkpoint {run}/checkpoints/step_0000006.ckpt, [\d.]+ MB in .*",
        r"step 6: validation took .*: val/loss [\d.]+",
        r"encoder file: {run}/encoder",
        r"{run}: finished after 6 steps; all of it took .*",
    ],
    "finetune": [
        r"threads: .*",
        r"precision .*",
        r"finetune: RetinaNet of ResEnc-XXS \([\d.]+ M parameters, encoder scratch\) into {run}; data cubes, "
        r"4 training cases; 2 x CPU with 1 thread\(s\) each; batch 2 \(1 a process x 2 x 1 accumulated\); "
        r"precision 32-true; 6 steps; wandb disabled; from the beginning; begun .*",
        PROGRESS,
        r"step 3: checkpoint {run}/checkpoints/step_0000003.ckpt, [\d.]+ MB in .*",
        r"step 3: validation took .*: val/mAP [\d.]+, .*",
        r"step 6: checkpoint {run}/checkpoints/step_0000006.ckpt, [\d.]+ MB in .*",
        r"step 6: validation took .*: val/mAP [\d.]+, .*",
        r"test, 2 volumes: mAP .*",
        r"detector bundle: {run}/bundle",
        r"{run}: finished after 6 steps; all of it took .*",
    ],
}
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


@pytest.mark.parametrize(
    ("stage", "options"),
    [("pretrain", TINY_PRETRAIN), pytest.param("finetune", [*TINY_FINETUNE, *TWO_PROCESSES], marks=pytest.mark.slow)],
)
def test_every_line_of_a_run_is_one_of_these(stage, options, cube_store, tmp_path):
    place = ["--data.store", str(cube_store), "--run.root", str(tmp_path), "--run.group", "g", "--run.name", "r"]
    run = tmp_path / "g" / "r"
    said = run_program(stage, *options, *place, "--trainer.val_check_interval", "3").splitlines()
    kept = (run / "log.txt").read_text(encoding="utf-8").splitlines()
    for found in (said, [re.sub(STAMP, "", line, count=1) for line in kept]):
        wanted = [pattern.replace("{run}", re.escape(str(run))) for pattern in LINES[stage]]
        unknown = [line for line in found if not any(re.fullmatch(pattern, line) for pattern in wanted)]
        missing = [pattern for pattern in wanted if not any(re.fullmatch(pattern, line) for line in found)]
        assert (unknown, missing) == ([], [])
    assert all(re.match(STAMP, line) for line in kept)


def test_a_run_that_goes_on_adds_to_its_log(cube_store, tmp_path, monkeypatch, capsys):
    def fit(*arguments: str) -> str:
        place = ["--data.store", str(cube_store), "--run.root", str(tmp_path), "--run.group", "g", "--run.name", "r"]
        place += ["--trainer.val_check_interval", "3"]
        pretrain_program.main(["fit", *TINY_PRETRAIN, *place, *arguments])
        return (tmp_path / "g" / "r" / "log.txt").read_text(encoding="utf-8")

    def interrupted_step(self, batch, batch_idx):
        if self.trainer.global_step == 4:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    step = PretrainModule.training_step
    monkeypatch.setattr(PretrainModule, "training_step", interrupted_step)
    with pytest.raises(SystemExit):
        fit()
    monkeypatch.setattr(PretrainModule, "training_step", step)
    first, both = (tmp_path / "g" / "r" / "log.txt").read_text(encoding="utf-8"), fit()
    assert both.startswith(first)
    assert "continuing an interrupted run" not in first
    assert f"; continuing an interrupted run from {tmp_path}/g/r/checkpoints/step_0000003.ckpt; " in both
    assert "from the beginning" not in both[len(first) :]
    again = fit("--run.restart", "true")
    assert again.count("from the beginning") == 1
    assert "━" not in capsys.readouterr().out  # no bar
