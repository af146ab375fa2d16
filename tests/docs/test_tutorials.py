"""The tutorials are what happens: their commands are run, at toy length, and print the lines that the pages show."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from finetune import __main__ as finetune
from medpretrain3d import cli

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = ROOT / "docs" / "tutorials"
TOY = {
    "plan": "--accelerator cpu --preset XXS --memory 1.5 --anchors-per-level 2 --spacing-mm 8 8 8",
    "finetune": (
        "--trainer.max_steps 1 --trainer.val_check_interval 1 --model.optim.warmup_steps 0 --data.num_workers 0 "
        "--run.wandb disabled --model.inference.score_threshold 0 --model.inference.max_per_class 5"
    ),
    "predict": "--device cpu",
}
"""What makes each command one of seconds."""


def blocks(page: str) -> list[tuple[str, str]]:
    """Kind and content of the blocks of a tutorial, in their order."""
    text = (TUTORIALS / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    lines = [line for kind, text in blocks(page) if kind == "bash" for line in text.splitlines()]
    return [line for line in lines if line.startswith("medpretrain3d ")]


def run(line: str) -> None:
    """Run a command of a page in this process."""
    words = [*shlex.split(line)[1:], *shlex.split(TOY.get(shlex.split(line)[1], ""))]
    if words[0] == "finetune":
        finetune.main(words[1:])
    else:
        assert cli.main(words) == 0, line


def shape(line: str) -> str:
    """A line without its numbers."""
    return re.sub(r"\d[\d.,]*", "0", re.sub(r"_at_[\dx.]+mm", "_at_mm", line)).strip()


def shapes(text: str) -> set[str]:
    return {re.sub(r" +", " ", shape(line)) for line in text.splitlines() if line.strip()}


def shown(page: str, beginnings: tuple[str, ...]) -> list[str]:
    """Lines of a page's output that begin as wanted."""
    lines = [line for kind, text in blocks(page) if kind == "text" for line in text.splitlines()]
    return [line for line in lines if line.startswith(beginnings)]


def test_getting_started(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [line for line in commands("getting_started.md") if "doctor" not in line]
    assert [line.split()[1] for line in lines] == ["phantom", "prepare", "plan", "finetune", "predict"]
    lines[0] = lines[0].replace("--cases 12", "--cases 5").replace("--spacing-mm 4", "--spacing-mm 8")
    for line in lines:
        run(line)
    printed = shapes(capsys.readouterr().out)
    for line in shown("getting_started.md", ("objects", "not used", "# configs", "# medpre", "detector bundle")):
        assert re.sub(r" +", " ", shape(line)) in printed, line
    assert (tmp_path / "configs" / "mine.html").is_file()
    assert json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))["predictions"]


def test_own_data_on_real_scans(shared_data, tmp_path, monkeypatch, capsys):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    raw, source = tmp_path / "shared" / "data" / "openkbp", shared_data / "openkbp"
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (source / "labelsTr").glob("*.nii.gz"))[:3]
    for case in cases:
        for part in (f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz"):
            (raw / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / part, raw / part)
    document = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    (raw / "dataset.json").write_text(json.dumps({**document, "numTraining": len(cases)}))
    lines = commands("own_data.md")
    assert [line.split()[1] for line in lines[:4]] == ["prepare", "prepare", "plan", "finetune"]
    for line in (*lines[1:4], next(line for line in lines if line.startswith("medpretrain3d tune"))):
        run(line)
    printed = shapes(capsys.readouterr().out)
    for line in shown("own_data.md", ("openkbp: layout", "labelled cases", "# configs/mine.yaml", "# medpretrain3d")):
        assert re.sub(r" +", " ", shape(line)) in printed, line
    metrics = json.loads((here / "runs/mine/scratch/test/metrics.json").read_text(encoding="utf-8"))
    assert metrics["num_cases"] == 1


@pytest.mark.parametrize("page", ["getting_started.md", "own_data.md"])
def test_a_page_shows_what_is_printed(page):
    assert len([kind for kind, _ in blocks(page) if kind == "text"]) >= 3
