"""Every error message is in the reference, and the cause of each family of them is told in troubleshooting."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")

sys.path.insert(0, str(ROOT / "docs"))
from _generate.errors import families, messages_of, write_errors  # noqa: E402  found by the line above


def test_each_part_that_raises_errors_has_a_section_with_causes():
    told = set(re.findall(r"^## (\w+)$", PAGE, re.MULTILINE))
    assert told == set(families())
    for name in told:
        section = re.search(rf"^## {name}\n\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
        assert section
        assert re.match(r"\*\*.+?\*\*", section[1], re.DOTALL), f"{name}: wanted what it is about in bold letters"
        assert len(section[1].split()) > 8


def test_messages_are_read_from_the_source_with_their_gaps():
    code = (
        "raise UserError('a `b`')\nraise UserError(f'{x}: got {y}, wanted '\n    f'{z}')\n"
        "raise InvalidCaseError('c' + name, 'kind')\nraise ValueError('no')\nraise UserError(message)\n"
    )
    assert sorted(messages_of(code)) == ["...: got ..., wanted ...", "a 'b'", "c"]


def test_the_reference_lists_them_by_part(tmp_path):
    write_errors(tmp_path / "errors.md")
    text = (tmp_path / "errors.md").read_text(encoding="utf-8")
    assert "## ingest" in text
    assert "stand for no class; known are ...; name every value" in text
    assert sum(map(len, families().values())) > 500
