"""What a public project promises beside its code says the same as the code."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import medpretrain3d
from medpretrain3d.documents import Artifact

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()


def test_the_version_is_written_in_the_package_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "medpretrain3d.__version__"}


def test_the_citation_and_the_changelog_name_the_version_and_its_day():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    released = re.findall(r"^## \[(\d[^\]]*)\] - (\S+)$", CHANGELOG, re.MULTILINE)
    assert cited["version"] == medpretrain3d.__version__
    assert released[0] == (cited["version"], str(cited["date-released"]))


def test_the_citation_holds_what_the_format_demands():
    # The Citation File Format, 1.2.0: these four keys, and of a person or an entity its name.
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0"
    assert cited["type"] == "software"
    assert all(cited[key] and isinstance(cited[key], str) for key in ("message", "title"))
    assert cited["authors"] == [{"name": "medpretrain3d contributors"}]


def test_the_changelog_has_the_kept_form():
    headings = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
    assert headings[:2] == ["File formats", "[Unreleased]"]
    groups = set(re.findall(r"^### (.*)$", CHANGELOG, re.MULTILINE))
    assert groups <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def _formats() -> dict[str, str]:
    """Format names written in the source, and the module that writes each."""
    found: dict[str, str] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for name in re.findall(r'"(medpretrain3d-[a-z]+)"', path.read_text()):
            found[name] = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    return found


def _version(name: str) -> int:
    """The version of a format that its module writes, or another one that makes its artifact of the name."""
    folder = Path(_formats()[name].replace(".", "/")).parent
    beside = [path for path in (SOURCE / folder).glob("*.py") if "Artifact(" in path.read_text()]
    modules = [".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in beside]
    values = [value for module in modules for value in vars(importlib.import_module(module)).values()]
    artifacts = [one for one in values if isinstance(one, Artifact) and one.format == name]
    return artifacts[0].version if artifacts else int(importlib.import_module(_formats()[name]).VERSION)


@pytest.mark.parametrize("name", sorted(_formats()))
def test_the_changelog_says_which_version_of_each_file_is_written(name):
    version = _version(name)
    row = re.search(rf"^\|[^|]*\| `{name}` \| (\d+) \| ([^|]+) \| ([^|]+) \|$", CHANGELOG, re.MULTILINE)
    assert row, f"the table of file formats in CHANGELOG.md has no row of {name}"
    assert int(row[1]) == version
    if version > 1:
        assert row[3].strip() != "-", "what to do with older ones"


def test_hooks_and_the_public_workflow_check_what_make_test_checks():
    recipes = re.findall(r"^(?:test|types):.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert len(recipes) == 2
    lines = [line.strip().replace("$(BIN)", ".venv/bin") for line in "".join(recipes).splitlines()]
    checks = {line for line in lines if "$(MAKE)" not in line}
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    tools = {tuple(hook["entry"].split()[:2]) for hook in hooks}
    assert tools == {tuple(check.split()[:2]) for check in checks}
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]
    assert [step["run"] for step in jobs["test"]["steps"] if "run" in step] == ["make test", ".ci/lowest"]


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*_*.yml")), ids=lambda path: path.stem
)
def test_issue_templates_have_what_a_form_needs(path):
    form = yaml.safe_load(path.read_text())
    assert all(isinstance(form[key], str) for key in ("name", "description"))
    for part in form["body"]:
        assert part["type"] in {"markdown", "textarea", "input", "dropdown", "checkboxes"}
        assert part["type"] == "markdown" or (part["id"] and part["attributes"]["label"])


def test_the_image_of_apptainer_takes_what_is_installed_and_no_runs_or_data():
    section = re.search(
        r"^%files\n(.*?)^%", (ROOT / "containers/medpretrain3d.def").read_text(), re.MULTILINE | re.DOTALL
    )
    assert section
    copied = dict(line.split() for line in section[1].splitlines() if line.strip())
    assert copied == {name: f"/opt/medpretrain3d/{name}" for name in copied}
    assert all((ROOT / name).exists() for name in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {"pyproject.toml", "setup.py", "MANIFEST.in", "constraints.txt", "src", "pretrain", "finetune", "configs"}
    assert set(copied) == needed | {project["readme"], *project["license-files"]}
