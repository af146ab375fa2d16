"""Every class that a package exports shows how it is used, and the example does what it says."""

from __future__ import annotations

import doctest
import importlib
import inspect

import pytest

PACKAGES = (
    "api",
    "boxes",
    "backbones",
    "objectives",
    "detection",
    "semi_supervised",
    "store",
    "phantom",
    "planning",
    "inference",
    "evaluation",
)
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def exported_classes() -> list[type]:
    packages = [importlib.import_module(f"medpretrain3d.{name}") for name in PACKAGES]
    exported = [getattr(package, name) for package in packages for name in package.__all__]
    return [one for one in exported if inspect.isclass(one)]


def test_the_packages_export_classes():
    assert len(exported_classes()) > 60


@pytest.mark.parametrize("cls", exported_classes(), ids=lambda cls: cls.__name__)
def test_the_example_of_every_exported_class_runs(cls, tmp_path, monkeypatch):
    documentation = inspect.cleandoc(cls.__doc__ or "")
    assert "\nExample:\n" in documentation, f"{cls.__name__} has no `Example:` block in its docstring"
    example = documentation.partition("\nExample:\n")[2]
    test = doctest.DocTestParser().get_doctest(
        example, {"__name__": "__main__"}, cls.__name__, inspect.getsourcefile(cls), 0
    )
    assert any(one.want for one in test.examples), "it shows no result"
    monkeypatch.chdir(tmp_path)  # nothing is left in the folder of the tests
    complaints: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=complaints.append)
    assert not complaints, "".join(complaints)
    assert not list(tmp_path.iterdir())
