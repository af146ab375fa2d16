"""The default place of what a command makes of a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from medpretrain3d.commands.beside import beside


@pytest.mark.parametrize(
    ("folder", "place"),
    [("data/a", "data/a_b"), ("a", "a_b"), (".", "{here}_b"), ("..", "{here.parent}_b"), ("a/..", "{here}_b")],
)
def test_it_is_beside_the_folder(folder: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "x" / "y"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    assert beside(Path(folder), "_b") == Path(place.format(here=here))
