from __future__ import annotations

import pickle

import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.names import plain_name
from medpretrain3d.store.skipped_cases import InvalidCaseError


@pytest.mark.parametrize("sign", ["\x1b[2J", "\r", "\n", "\b", "\x9b", "\u202e", "\u2028", "\x00", "\udc80", "\x07"])
def test_a_message_shows_what_a_terminal_would_obey(sign):
    told = str(UserError(f"case 'a{sign}b': wanted another", f"  scan{sign}\n  more"))
    first, *below = told.split("\n")
    assert first.isprintable()
    assert first.startswith("case 'a\\")
    assert all(line.isprintable() for line in below)
    assert below[-1] == "  more"


def test_an_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(InvalidCaseError("a\nb", "mask")))
    assert (type(error), str(error), error.kind) == (InvalidCaseError, "a\\nb", "mask")
    assert str(pickle.loads(pickle.dumps(UserError("a", "b\nc")))) == "a\nb\nc"


@pytest.mark.parametrize("name", ["a", "A b", "1.3.6.1", "ä", "=x", "x" * 200, "a__b", "con"])
def test_plain_names(name):
    assert plain_name(name, "case id") == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", ".a", "a/b", "/a", "../a", "a\\b", "a\0", "a\n", "\x1b", " a", "a ", "\udc80"),
        *("x" * 201, "ä" * 101, None, 1, ["a"]),
    ],
)
def test_names_that_lead_out_of_their_folder_or_cannot_be_read_are_refused(name):
    with pytest.raises(UserError, match=r"^case id "):
        plain_name(name, "case id")


def test_a_message_that_quotes_something_endless_is_cut():
    told = str(UserError(f"a.json: got {'9' * 10**6}, wanted another"))
    assert len(told) < 1300
    assert told.startswith("a.json: got 999")
    assert told.endswith("wanted another")
