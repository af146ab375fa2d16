"""What several processes print to one terminal: each line reaches it in one piece."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import pytest

import medpretrain3d
from medpretrain3d.engine.run_log import run_log
from medpretrain3d.lines import counted, counted_scans, print_line
from medpretrain3d.study import launch
from medpretrain3d.study.record import RECORD, Record

SOURCE = Path(medpretrain3d.__file__).parent
SHARED = ("atomic", "engine", "command_line", "store", "interruption.py", "cli.py", "study/launch.py", "study/sweep.py")
"""What runs in processes that print to one place: jobs of a study, ranks, loader workers, trials of a sweep."""


class Pieces(io.RawIOBase):
    """What the system is handed, one piece a call; a stream of Python's on top, as unbuffered as one can be."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, piece: bytes) -> int:  # type: ignore[override]  # that of bytes is enough
        self.pieces.append(bytes(piece))
        return len(piece)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_line_is_one_piece(name: str, monkeypatch: pytest.MonkeyPatch):
    raw = Pieces()
    monkeypatch.setattr(f"sys.{name}", io.TextIOWrapper(raw, write_through=True))  # type: ignore[type-var]
    print_line("pretrain mae, seed 0: begins", to_stderr=name == "stderr")
    assert raw.pieces == [b"pretrain mae, seed 0: begins\n"]


def test_lines_of_runs_and_jobs_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    raw = Pieces()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, write_through=True))
    run_log.begin()
    run_log.say("step 1: checkpoint")
    run_log.begin()
    record = Record(
        **{"name": "a job", "kind": "finetune", "setting": {}, "facts": {}, "code": "", "recipe": "", "identity": "a"},
        needs=[], commands=[], folder=str(tmp_path / "run"),
    )  # fmt: skip
    RECORD.write(tmp_path / "finetune-a.json", record)
    monkeypatch.chdir(tmp_path)
    assert launch._run(record, tmp_path / "finetune-a.json", {}) == 1
    assert [piece.count(b"\n") for piece in raw.pieces] == [1, 1, 1]
    assert [piece[-1:] for piece in raw.pieces] == [b"\n"] * 3
    assert raw.pieces[1].startswith(b"a job: begins, ")


def test_nothing_that_shares_a_terminal_prints_in_two_pieces():
    paths = [path for name in SHARED for path in ([SOURCE / name] if "." in name else (SOURCE / name).rglob("*.py"))]
    assert len(paths) > 60
    found = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert found == []


def test_one_is_no_plural():
    assert [counted(number, "job") for number in (0, 1, 2)] == ["0 jobs", "1 job", "2 jobs"]


def test_patients_are_said_where_they_are_fewer_than_scans():
    assert counted_scans(12, 12) == "12 scans"
    assert counted_scans(12, 6, "test case") == "12 test cases of 6 patients"
    assert counted_scans(2, 1) == "2 scans of 1 patient"
