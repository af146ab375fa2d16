from __future__ import annotations

import errno

import pytest

from benchmarks.page import COLUMNS, Setting, update_page
from benchmarks.timing import Row, race
from medpretrain3d.errors import UserError

BEFORE, AFTER = Setting("0123456789ab", "an old CPU, 2 of 2 cores"), Setting("ba9876543210", "a new CPU, 1 of 1 cores")
ORDER = ["boxes", "crops", "norm"]


def cells(line: str) -> dict[str, str]:
    return dict(zip(COLUMNS, (cell.strip() for cell in line.strip("|").split("|")), strict=True))


def rows_of(page: str) -> list[dict[str, str]]:
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [cells(line) for line in lines if not line.startswith(("| work |", "| --- |"))]


def test_a_row_says_everything_and_whether_it_reaches_its_bar(tmp_path):
    path = tmp_path / "benchmarks.md"
    measured = [Row("IoU", "monai", 30.0, 2.0, bar=15), Row("memory | peak", "torch", 90.0, 100.0, "MB", 1.1, "bf16")]
    update_page(path, ORDER, {"boxes": measured}, BEFORE)
    met, behind = rows_of(path.read_text())
    assert met == {
        "work": "IoU",
        "peer": "monai",
        "theirs": "30 ms",
        "ours": "2 ms",
        "ratio": "15",
        "bar": "15",
        "verdict": "met",
        "precision": "fp32",
        "commit": "0123456789ab",
        "machine": "an old CPU, 2 of 2 cores",
    }
    assert (behind["work"], behind["ratio"], behind["bar"]) == ("memory / peak", "0.9", "1.1")
    assert behind["verdict"] == "**behind**"
    assert "1 of 2 rows reach their bar. Behind:\n\n- memory / peak\n" in path.read_text()


def test_what_is_not_measured_again_keeps_its_commit_and_place(tmp_path):
    path = tmp_path / "benchmarks.md"
    rows = {name: [Row(f"work of {name}", "peer", 2.0, 1.0)] for name in ("norm", "boxes")}
    update_page(path, ORDER, rows, BEFORE)
    first = path.read_text()
    update_page(path, ORDER, {"boxes": [Row("other work", "peer", 1.0, 2.0)]}, AFTER)
    after = rows_of(path.read_text())
    assert [(row["work"], row["commit"]) for row in after] == [
        ("other work", AFTER.commit),
        ("work of norm", BEFORE.commit),
    ]
    assert "Behind:\n\n- other work\n" in path.read_text()
    update_page(path, ORDER, {"boxes": rows["boxes"]}, BEFORE)
    assert path.read_text() == first
    assert "All 2 rows reach their bar." in first


def test_a_page_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "benchmarks.md"
    update_page(path, ORDER, {"boxes": [Row("IoU", "monai", 3.0, 2.0)]}, BEFORE)
    before = path.read_text()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="space"):
        update_page(path, ORDER, {"norm": [Row("norm", "torch", 3.0, 2.0)]}, AFTER)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_removed_benchmark_leaves_the_page(tmp_path):
    path = tmp_path / "benchmarks.md"
    update_page(path, ["gone", "norm"], {name: [Row(name, "peer", 2.0, 1.0)] for name in ("gone", "norm")}, BEFORE)
    update_page(path, ORDER, {}, AFTER)
    assert [row["work"] for row in rows_of(path.read_text())] == ["norm"]


def test_here_names_processor_and_versions():
    setting = Setting.here()
    assert "cores" in setting.machine
    assert "torch 2." in setting.machine


def test_a_race_warms_up_and_takes_medians_in_turn():
    calls: list[str] = []
    row = race("work", "peer", lambda: calls.append("theirs"), lambda: calls.append("ours"), rounds=2, bar=1.5)
    assert calls == ["theirs", "ours"] * 3
    assert row.bar == 1.5
