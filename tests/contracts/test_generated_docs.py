"""What the documentation says of the classes is what the classes say of themselves."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PROGRAM = runpy.run_path(str(DOCS / "generate.py"))


SLOW = {"checkpoints.md"}  # counts what every published encoder computes
PAGES = [pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else []) for page in PROGRAM["PARTS"]]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_what_would_be_generated(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    assert PROGRAM["generate"](page, text) == text, "call `python docs/generate.py`"
