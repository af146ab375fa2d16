"""What pyproject.toml allows at the least is what `.ci/lowest` installs and tries."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
UNTRIED_EXTRAS = {"docs", "study", "slurm", "workspace", "tensorboard", "mlflow", "sweep", "s3"}
"""The pages are built with the pinned versions only; the bounds of Snakemake, of trackers and of Optuna are the pinned
versions; Snakemake's plugin for SLURM is installed where a cluster is; s3fs has the release of fsspec."""


def bounds() -> dict[str, Requirement]:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = document["project"]
    extras = [
        one for name, group in project["optional-dependencies"].items() if name not in UNTRIED_EXTRAS for one in group
    ]
    listed = map(Requirement, [*project["dependencies"], *extras, *document["dependency-groups"]["test"]])
    return {canonicalize_name(one.name): one for one in listed}


def pins(path: Path) -> dict[str, Version]:
    found = re.findall(r"(?m)^([\w.-]+)==(\S+)", path.read_text(encoding="utf-8"))
    return {canonicalize_name(name): Version(version) for name, version in found}


LOWEST = pins(ROOT / ".ci/lowest.txt")


@pytest.mark.parametrize("name", sorted(bounds()))
def test_the_lowest_set_holds_every_bound(name):
    (bound,) = (Version(one.version) for one in bounds()[name].specifier if one.operator == ">=")
    pinned = LOWEST[name]
    # Of `>=3.6`, where no 3.6.0 was ever released, 3.6.1 is the lowest.
    assert pinned >= bound
    assert pinned.release[: len(bound.release)] == bound.release, "compile .ci/lowest.txt anew, see CONTRIBUTING.md"


def test_the_pinned_set_is_within_the_bounds():
    pinned = pins(ROOT / "constraints.txt")
    assert [name for name, one in bounds().items() if pinned[name] not in one.specifier] == []


def test_the_tests_that_try_it_are_there():
    script = (ROOT / ".ci/lowest").read_text(encoding="utf-8")
    named = re.findall(r"tests/[\w/.]+", script)
    assert len(named) > 5
    assert [path for path in named if not (ROOT / path).exists()] == []
