from __future__ import annotations

from pathlib import Path

import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.urls import refuse_url, url_of


def test_places_that_are_urls():
    assert url_of(Path("s3://bucket/stores/ct")) == "s3://bucket/stores/ct"
    assert url_of("https://h:80/ct/") == "https://h:80/ct"
    assert url_of(Path("file:///tmp/ct")) == "file:///tmp/ct"
    assert [url_of(place) for place in ("store", "/data/store", "../a:b/c", "C:/x", "/data/a@b?c")] == [None] * 5


@pytest.mark.parametrize(
    "place",
    [
        "s3://key:word@bucket/ct",
        "https://word@h/ct",
        "https://h/ct?X-Amz-Signature=word",
        "https://h?word",
        "https://h/ct#word",
        Path("https://user:word@h/ct"),
    ],
)
def test_an_address_with_a_secret_is_refused_without_it(place):
    with pytest.raises(UserError, match=r"^(s3|https)://(bucket|h)/\.\.\.: credentials in an address") as refused:
        url_of(place)
    assert "word" not in str(refused.value)


def test_nothing_is_written_to_a_url(tmp_path):
    refuse_url(tmp_path)
    with pytest.raises(UserError, match=r"^s3://bucket/out: is a URL, where nothing is written"):
        refuse_url(Path("s3://bucket/out"))
