from __future__ import annotations

import io
import zipfile

import openpyxl
import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers import xlsx
from medpretrain3d.ingest.importers.xlsx import read_xlsx


@pytest.fixture
def book(tmp_path):
    """A workbook of two columns, whose sheet is what a test makes of it."""

    def write(*rows, change=lambda sheet: sheet):
        one = openpyxl.Workbook()
        for row in rows:
            one.active.append(row)
        one.save(tmp_path / "whole.xlsx")
        changed = io.BytesIO()
        with zipfile.ZipFile(tmp_path / "whole.xlsx") as whole, zipfile.ZipFile(changed, "w", 8) as archive:
            for name in whole.namelist():
                text = whole.read(name)
                archive.writestr(name, change(text.decode()) if "sheet1" in name else text)
        (tmp_path / "a.xlsx").write_bytes(changed.getvalue())
        return tmp_path / "a.xlsx"

    return write


def test_rows_are_text_and_may_end_early(book):
    path = book(("id", "size "), (" a", 2), ("b", None), (None, 7))
    assert read_xlsx(path, ["id"]) == [{"id": "a", "size": "2"}, {"id": "b", "size": ""}]


def test_a_missing_column_is_named(book):
    with pytest.raises(UserError, match=r"a.xlsx: lacks the column size; has id"):
        read_xlsx(book(("id",), ("a",)), ["id", "size"])


def test_a_wrong_note_of_its_size_cuts_nothing_off(book):
    path = book(("id",), ("a",), ("b",), change=lambda sheet: sheet.replace("A1:A3", "A1"))
    assert read_xlsx(path, ["id"]) == [{"id": "a"}, {"id": "b"}]


def test_what_unpacks_to_more_than_any_table_is_not_unpacked(book, monkeypatch):
    monkeypatch.setattr(xlsx, "MAX_BYTES", 100_000)
    path = book(("id",), ("a",), change=lambda sheet: sheet + " " * 100_000)
    with pytest.raises(UserError, match=r"a.xlsx: .*unpacks to more than 100,000 bytes"):
        read_xlsx(path, ["id"])


@pytest.mark.parametrize(
    "change",
    [
        lambda sheet: "",
        lambda sheet: sheet[: len(sheet) // 2],
        lambda sheet: sheet.replace('r="2"', 'r="900000000"'),
        lambda sheet: sheet.replace('r="2"', 'r="x"'),
    ],
    ids=["empty", "cut", "a row far below", "a row nowhere"],
)
def test_what_is_no_workbook_is_refused_in_one_line(book, change):
    with pytest.raises(UserError, match=r"a.xlsx: not readable as an Excel workbook \(.+\)") as caught:
        read_xlsx(book(("id",), ("a",), change=change), ["id"])
    assert "\n" not in str(caught.value)
