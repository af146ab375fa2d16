from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpretrain3d.documents import NA_VALUES, csv_text, read_rows, read_table
from medpretrain3d.errors import UserError


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd", "-cmd|x", "@sum", "\tx", "\rx", "'", "'=1", "''", '=HYPERLINK("a")', "-1+1"]
)
def test_a_text_that_a_spreadsheet_would_obey_gets_an_apostrophe_and_is_read_as_it_was(tmp_path, text):
    table = csv_text(["name", "n"], [[text, 1]])
    assert table.splitlines()[1].lstrip('"')[0] == "'"
    path = tmp_path / "a.csv"
    path.write_bytes(table.encode())
    assert read_rows(path, "x")[1] == [text, "1"]


def test_numbers_and_plain_texts_stay_as_they_are():
    table = csv_text(
        ["name", "a", "b", "c", "d"], [["a=b", "-1.500", "+2e-3", -0.5, None], ["x-1", ".5", "-7", -1, ""]]
    )
    assert table == "name,a,b,c,d\na=b,-1.500,+2e-3,-0.5,\nx-1,.5,-7,-1,\n"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), min_size=1))
def test_every_text_survives_the_round_trip(tmp_path_factory, texts):
    path = tmp_path_factory.getbasetemp() / "round.csv"
    path.write_bytes(csv_text(["name"], [[text] for text in texts]).encode())
    assert [row[0] for row in read_rows(path, "x")[1:]] == texts


def test_rows_by_column(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfa, b ,\r\n1, 2 ,\r\n,,\r\n\r\n3\r\n4,5,,,\r\n")
    rows = read_table(path, ["a", "b"], "x")
    assert rows == [{"a": "1", "b": "2"}, {"a": "3", "b": ""}, {"a": "4", "b": "5"}]


def test_what_programs_write_into_an_empty_cell_is_empty_where_it_is_asked_for(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b\nnan,1\nNA,<NA>\nnone,N/A\n")
    assert read_table(path, ["a"], "x", na_values=NA_VALUES) == [{"a": "", "b": "1"}, {"a": "none", "b": ""}]
    assert read_table(path, ["a"], "x")[0] == {"a": "nan", "b": "1"}  # a loss that is no number is one to know of


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "lacks the column a; has nothing"),
        (b"b\n1\n", "lacks the column a; has b"),
        (b"a,a\n1,2\n", "has the column a twice"),
        (b"a,b\n1,2,3\n", "row 2 has 3 cells, the header 2"),
        (b"a\n\xe4\n", "not text in UTF-8"),
        (b"a\n\x00\n", "is no text"),
        (b'a\n"' + b"x" * 2**18, "field larger than field limit"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line_that_names_it(tmp_path, content, told):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=told) as error:
        read_table(path, ["a"], "mend it")
    assert str(error.value).startswith(f"{path}: ")
