"""Every command in the documentation is one that the program takes: parsed by the real parsers, not run."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from medpretrain3d import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *(p for p in sorted((ROOT / "docs").rglob("*.md")) if not {"_build", "methods", "api"} & set(p.parts)),
]
STAGES = ("pretrain", "finetune")
INIT = "--model.init_from"
OTHERS = (
    "pip install ",
    "git clone ",
    "wandb sweep ",
    "wandb agent ",
    "mlflow ui ",
    "dicomweb_client ",
    "source .venv/bin/activate",
    ".venv/bin/pre-commit install",
    "#",
)
"""What a block may hold beside commands of this program."""


def commands(page: Path) -> list[str]:
    """The lines of a page's blocks of commands, those that end on a backslash joined, without comments."""
    block = r"^```(?:bash\n|\n(?=medpretrain3d |python -m |make ))(.*?)^```"
    blocks = re.findall(block, page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.strip()]


DOCUMENTED = [(page, line) for line, page in {line: page for page in PAGES for line in commands(page)}.items()]


def name_of(one: tuple[Path, str]) -> str:
    return f"{one[0].stem}: {one[1][:60]}"


def test_commands_are_found():
    assert len(DOCUMENTED) > 30


@pytest.mark.parametrize("one", DOCUMENTED, ids=name_of)
def test_a_documented_command_parses(one, monkeypatch, tmp_path, capsys):
    (tmp_path / "configs").mkdir()
    for folder in (ROOT / "configs").iterdir():
        (tmp_path / "configs" / folder.name).symlink_to(folder)
    (tmp_path / "configs" / "mine.yaml").write_text("base: openkbp\nrun: {group: mine}\n")  # what `plan` writes
    (tmp_path / "plan.yaml").write_text("data: {batch_size: 2}\n")  # what `plan` prints
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    parse(one[1].partition(" > ")[0], monkeypatch)


def parse(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(os.path.expandvars(line))
    if words[:1] == ["make"]:
        for made in made_by(words):
            parse(made, monkeypatch)
    elif words[:1] == ["medpretrain3d"] and words[1] in STAGES:
        parse_stage(words[1], words[2:])
    elif words[:1] == ["medpretrain3d"]:
        if words[1].startswith("-"):
            return
        command = importlib.import_module(f"medpretrain3d.commands.{words[1].replace('-', '_')}")
        monkeypatch.setattr(command, "run", lambda options: 0)
        monkeypatch.delattr(command, "lock", raising=False)
        assert cli.main(words[1:]) == 0, line
    elif words[:2] == ["python", "-m"] and words[2] in STAGES:
        parse_stage(words[2], words[3:])
    else:
        assert line.startswith(OTHERS), f"{line}: is no command of this program"


def parse_stage(stage: str, words: list[str]) -> None:
    words = words if words[:1] == ["fit"] else ["fit", *words]
    if (
        INIT in words
    ):  # `--print_config` reads that file, which is not here; what may be given is tested with the stages
        place = words.index(INIT)
        words = [*words[:place], *words[place + 2 :]]
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"{stage}.__main__").main([*words, "--print_config"])
    assert ended.value.code in (0, None), words


def made_by(words: list[str]) -> list[str]:
    """The commands of this program that `make` would run, without its installation."""
    shown = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = shown.replace("\\\n", " ").splitlines()
    made = [line.removeprefix(".venv/bin/") for line in lines if line.startswith(".venv/bin/")]
    programs = ("medpretrain3d ", "python -m pretrain ", "python -m finetune ")
    return [line for line in made if line.startswith(programs)]
