from __future__ import annotations

import csv
import io

from medpretrain3d.study.table import Estimate, PValue, Table
from medpretrain3d.study.table_files import table_csv, table_latex, table_markdown

TABLE = Table(["arm", "mAP"], [["a_b", Estimate(0.123456, 0.1, 0.2)], ["=c|d", Estimate(None)]])


def test_csv_has_full_precision_and_a_column_for_each_end_of_the_interval():
    rows = list(csv.reader(io.StringIO(table_csv(TABLE))))
    assert rows == [["arm", "mAP", "mAP low", "mAP high"], ["a_b", "0.123456", "0.1", "0.2"], ["'=c|d", "", "", ""]]


def test_a_p_of_a_csv_has_full_precision_and_is_a_number_or_nothing():
    table = Table(["arm", "p"], [["a", PValue(1.25e-7)], ["b", PValue(float("nan"))]])
    assert list(csv.reader(io.StringIO(table_csv(table))))[1:] == [["a", "1.25e-07"], ["b", ""]]
    assert "| a | <0.0001 |" in table_markdown(table)


def test_markdown_has_as_many_cells_in_every_row():
    lines = table_markdown(TABLE).splitlines()
    assert lines[:3] == ["| arm | mAP |", "| --- | ---: |", "| a_b | 0.123 [0.100, 0.200] |"]
    assert {line.count("|") for line in lines} == {3}


def test_latex_escapes_what_has_a_meaning_there():
    text = table_latex(TABLE)
    assert r"\begin{tabular}{lr}" in text
    assert r"a\_b & 0.123 [0.100, 0.200] \\" in text
    assert r"100 \% & \textbackslash{}x \\" in table_latex(Table(["h", "i"], [["100 %", "\\x"]]))
