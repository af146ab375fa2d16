from __future__ import annotations

import pytest
from pydantic import with_config
from typing_extensions import TypedDict

from medpretrain3d.documents import SCHEMA, Artifact, Whole
from medpretrain3d.errors import UserError


@with_config(SCHEMA)
class Count(TypedDict):
    count: Whole


COUNT = Artifact("f", 2, Count, "make it again")


def test_what_is_written_is_read(tmp_path):
    COUNT.write(tmp_path / "a.json", {"count": 3})
    assert COUNT.read(tmp_path / "a.json") == {"format": "f", "version": 2, "count": 3}


def test_a_document_read_is_written_with_its_own_version():
    assert COUNT.document(COUNT.parse('{"format": "f", "version": 1, "count": 3}', "a.json"))["version"] == 1


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ([], "got a list, wanted an object of format f; make it again"),
        ({}, "got None version None, wanted f up to version 2"),
        ({"format": ["f"], "version": 1}, r"got \['f'\] version 1, wanted f"),
        ({"format": "f"}, "version None, wanted f up to version 2; update medpretrain3d or make it again"),
        ({"format": "f", "version": "1"}, "version 1, wanted f"),
        ({"format": "f", "version": True}, "version True"),
        ({"format": "f", "version": 0}, "version 0"),
        ({"format": "f", "version": 3}, "version 3"),
        ({"format": "f", "version": 1}, "a.json: count: is missing; make it again"),
        ({"format": "f", "version": 1, "count": -1}, "a.json: count: got -1, wanted"),
    ],
)
def test_another_document_is_one_error(document, told):
    with pytest.raises(UserError, match=told):
        COUNT.check(document, "a.json")


def test_a_version_that_is_not_read_any_more():
    newest = Artifact("f", 3, Count, "make it again", oldest=3)
    with pytest.raises(UserError, match="got f version 2, this medpretrain3d reads version 3; update medpretrain3d or"):
        newest.check({"format": "f", "version": 2, "count": 1}, "a.json")


def test_a_missing_or_damaged_file_is_one_error(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        COUNT.read(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"format": ')
    with pytest.raises(UserError, match=r"is not valid JSON .*; make it again"):
        COUNT.read(tmp_path / "a.json")
