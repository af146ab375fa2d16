"""Every link between pages leads to a file and a heading that exist, and every name in the glossary to code."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("reference/commands", "reference/api/index", "methods/index")
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *(p for p in sorted((ROOT / "docs").rglob("*.md")) if not {"_build", "methods", "api"} & set(p.parts)),
]
LINK = re.compile(r"(?<!!)\[[^\]\[]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def prose(path: Path) -> str:
    """A page without blocks and spans of code, in which brackets mean something else."""
    text = re.sub(r"^(`{3,}|:{3,}).*?^\1", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?<!`)`[^`\n]+`", "``", text)


def anchors(path: Path) -> set[str]:
    """What links may name in a page, as code hosts and MyST make it of headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = [re.sub(r"[`*]", "", one).strip() for one in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page):
    for match in LINK.finditer(prose(page)):
        target = match[1] or match[2]
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{target} leads to no file"
        if anchor:
            assert anchor in anchors(path), f"{target} leads to no heading"


def test_every_page_is_in_the_table_of_contents():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```\{toctree\}\n(.*?)```", index, re.DOTALL) for line in block.splitlines()]
    entries = [line for line in lines if line and not line.startswith(":")]
    listed = set()
    for entry in entries:
        found = {path.with_suffix("") for path in (ROOT / "docs").glob(f"{entry}.md")}
        assert found or entry in GENERATED, f"no page {entry}"
        listed |= found
    written = {p.with_suffix("") for p in PAGES if p.is_relative_to(ROOT / "docs")}
    lost = {str(page.relative_to(ROOT / "docs")) for page in written - listed} - {"index", *GENERATED}
    assert not lost, f"no menu leads to {sorted(lost)}"


def glossary() -> list[str]:
    rows = re.findall(r"^\|[^|]+\| ([^|]+) \|[^|]+\|$", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    return sorted({name for row in rows for name in re.findall(r"`(medpretrain3d[\w.]+)`", row)})


@pytest.mark.parametrize("name", glossary())
def test_names_in_the_glossary_exist(name):
    head, _, tail = name.rpartition(".")
    # A module that nothing has imported yet is no attribute of its package.
    assert hasattr(importlib.import_module(head), tail) or importlib.util.find_spec(name)


def test_the_glossary_is_read():
    assert len(glossary()) > 30
