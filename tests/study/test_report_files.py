from __future__ import annotations

import re
from pathlib import Path

from medpretrain3d import cli
from medpretrain3d.study.page import write_figures, write_report
from medpretrain3d.study.report import make_report
from medpretrain3d.study.report_files import file_stems, write_files
from medpretrain3d.study.run import find_runs
from medpretrain3d.study.table_files import write_tables

from .test_report import write_finetuning, write_run


def test_titles_keep_their_script_and_are_numbered_where_alike():
    assert file_stems(["cases \u80ba, all", "cases \u809d, all", "\u0915\u093f", "Caf\u00e9", "Cafe\u0301"]) == [
        "cases_\u80ba_all",
        "cases_\u809d_all",
        "\u0915\u093f",  # a vowel sign is no letter
        "caf\u00e9",
        "caf\u00e9_2",  # one character or two, file systems of some machines take both for one
    ]
    assert file_stems(["KiTS-21", "kits_21", "kits 21 2"]) == ["kits_21", "kits_21_2", "kits_21_2_2"]
    (long,) = file_stems(["\u80ba" * 100])
    assert len(long.encode()) <= 200


def test_data_sets_of_any_name_have_tables_and_plots_of_their_own(tmp_path: Path):
    for data in ("\u80ba", "\u809d", "KiTS-21", "kits_21"):
        for arm in ("scratch", "mae"):
            write_finetuning(tmp_path / "runs", f"{arm}_{data}", arm, 5.0, dataset=data)
    report = make_report(find_runs([tmp_path / "runs"]), "Title")
    tables, figures = write_tables(report, tmp_path / "tables"), write_figures(report, tmp_path / "figures")
    assert len(set(tables)) == len(tables) == 3 * len(report.tables)
    assert len(set(figures)) == len(figures) == len(report.figures)
    assert all(path.is_file() for path in (*tables, *figures))


def test_files_of_an_earlier_report_go_and_those_of_others_stay(tmp_path: Path):
    write_files(tmp_path, {"a.csv": "a", "b.csv": "b", "c.csv": "c"})
    write_files(tmp_path, {"d.csv": "d"}, "other")
    (tmp_path / "b.csv").write_text("mine")
    (tmp_path / "own.csv").write_text("own")
    assert write_files(tmp_path, {"a.csv": "new"}) == [tmp_path / "a.csv"]
    there = {path.name: path.read_text() for path in tmp_path.glob("*.csv")}
    assert there == {"a.csv": "new", "b.csv": "mine", "d.csv": "d", "own.csv": "own"}
    (tmp_path / ".report.sha256").write_bytes(b"\xff damaged")
    assert write_files(tmp_path, {}) == []
    assert (tmp_path / "a.csv").is_file()  # of which nobody says any more whose it is


def test_a_report_of_fewer_data_sets_leaves_no_table_of_the_others(tmp_path: Path, capsys):
    for data in ("lung", "liver"):
        write_finetuning(tmp_path / data, "scratch", "scratch", 5.0, dataset=data)
    page, figures = tmp_path / "report.html", tmp_path / "figures"
    assert cli.main(["report", *(str(tmp_path / name) for name in ("lung", "liver")), "-o", str(page)]) == 0
    assert (tmp_path / "report_tables" / "cases_liver_all_labels.csv").is_file()
    words = ["report", str(tmp_path / "lung"), "-o", str(page), "--figures", str(figures)]
    assert cli.main(words) == 0
    there = [path.name for path in (tmp_path / "report_tables").glob("*.*") if path.name[0] != "."]
    assert not [name for name in there if "liver" in name]
    assert f"report_tables: {len(there)} files" in capsys.readouterr().out


def test_legends_of_pages_and_plots_dash_the_arms_beyond_the_colors_as_plots_do(tmp_path: Path):
    for name in "abcdefgh":
        rows = [{"step": step, "train/loss": 1.0} for step in range(3)]
        write_run(tmp_path / "runs", name, rows, stage="pretrain", paradigm="x", method="mae")
    report = make_report(find_runs([tmp_path / "runs"]), "Title")
    write_report(report, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    legend = dict(re.findall(r'data-arm="(\d+)"><i class="swatch turn-(\d)"', page))
    assert legend == {**dict.fromkeys("0123456", "0"), "7": "1"}
    (plot,) = write_figures(report, tmp_path / "figures")
    assert re.findall(r'stroke-dasharray="([^"]+)"', plot.read_text()) == [*["none"] * 7, "5 2"]
