from __future__ import annotations

import os
import time
from typing import Any, NotRequired

import numpy as np
import pytest
from pydantic import with_config
from typing_extensions import TypedDict

from medpretrain3d.documents import SCHEMA, Text, Triple, Whole, json_text, parse_json, read_json
from medpretrain3d.errors import UserError


@with_config(SCHEMA)
class Row(TypedDict):
    id: Text
    count: Whole
    spacing_mm: NotRequired[Triple | None]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "not valid JSON"),
        (b"[1, 2", "not valid JSON"),
        (b"[1] x", "not valid JSON"),
        (b"\xff\xfe[\x001\x00", "not text in UTF-8"),
        (b"[1]\x00", "null"),
        (b'{"a": 1, "a": 2}', "'a' is there twice"),
        (b"[NaN]", "NaN is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"[1e999]", "too large"),
        (b"[" + b"9" * 310 + b".0]", "too large"),
        (b"[9223372036854775808]", "too large"),
        (b"[" + b"9" * 5000 + b"]", "too large"),
        (b'["\\ud800"]', "surrogate"),
        (b"[" * 65 + b"]" * 65, "nested deeper"),
        (b"[" * 10**6, "nested deeper"),
        (b'{"a":' * 10**6 + b"1" + b"}" * 10**6, "nested deeper"),
    ],
)
def test_what_is_no_json_is_refused_in_one_line_that_names_it(tmp_path, text, told):
    path = tmp_path / "a.json"
    path.write_bytes(text)
    started = time.process_time()
    with pytest.raises(UserError, match=told) as error:
        read_json(path, object, "make it again")
    assert str(error.value).startswith(f"{path}: ")
    assert str(error.value).endswith("; make it again")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 300
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (b"\xef\xbb\xbf[1]", [1]),
        (b"[" * 64 + b"]" * 64, None),
        (b'["' + b"[" * 1000 + b'\\"]"]', ["[" * 1000 + '"]']),
        (b"[9223372036854775807, 1e308]", [2**63 - 1, 1e308]),
        (b'["\\ud83d\\ude00"]', ["\U0001f600"]),
    ],
)
def test_what_is_json_is_read(text, content):
    read = parse_json(text, "a.json", object, "make it again")
    assert content is None or read == content


def test_nan_is_read_where_a_kind_of_file_may_hold_it():
    (read,) = parse_json(b"[NaN]", "a.json", list, "make it again", allow_nan=True)
    assert read != read


def test_a_number_that_does_not_exist_is_written_as_null():
    nan, inf = float("nan"), float("inf")
    document = {"a": nan, "b": [inf, -inf, 0.5], "c": ({"d": np.float64("nan")}, "NaN", None, True)}
    text = json_text(document)
    assert text == '{"a": null, "b": [null, null, 0.5], "c": [{"d": null}, "NaN", null, true]}\n'
    assert json_text([0.1], indent=1) == "[\n 0.1\n]\n"
    assert parse_json(text, "a.json", dict, "make it again")["b"] == [None, None, 0.5]


def test_a_document_is_of_the_type_that_is_wanted_and_stays_as_it_is():
    row = {"id": "a", "count": 1, "spacing_mm": [1, 2, 3], "more": {"x": []}}
    read: Any = parse_json('{"id": "a", "count": 1, "spacing_mm": [1, 2, 3], "more": {"x": []}}', "a", Row, "x")
    assert read == row
    assert [type(value) for value in read["spacing_mm"]] == [int] * 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "a.json: got a list of 0, wanted"),
        ('{"id": "a"}', "a.json: count: is missing"),
        ('{"id": 1, "count": 1}', "a.json: id: got 1, wanted a valid string"),
        ('{"id": "a", "count": true}', "a.json: count: got True, wanted"),
        ('{"id": "a", "count": "1"}', "a.json: count: got '1', wanted"),
        ('{"id": "a", "count": 1.5}', "a.json: count: got 1.5, wanted"),
        ('{"id": "a", "count": -1}', "a.json: count: got -1, wanted"),
        ('{"id": "a", "count": 4294967296}', "a.json: count: got 4294967296, wanted"),
        ('{"id": "a", "count": 1, "spacing_mm": [1, 2]}', "a.json: spacing_mm: got a list of 2"),
        ('{"id": "a", "count": 1, "spacing_mm": [1, 2, null]}', r"a.json: spacing_mm\[2\]: got None"),
    ],
)
def test_a_value_of_another_type_is_named(text, told):
    with pytest.raises(UserError, match=told):
        parse_json(text, "a.json", Row, "make it again")


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="no regular file"):
        read_json(tmp_path / "pipe", object, "x")
    for name in ("", "none", "none/none", "n" * 300):
        with pytest.raises(UserError, match=r"x$"):
            read_json(tmp_path / name, object, "x")


def test_a_file_larger_than_its_kind_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match="1,099,511,627,776 bytes, wanted at most 67,108,864"):
        read_json(path, object, "x")
