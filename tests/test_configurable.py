from __future__ import annotations

import copy
import json
import pickle
from dataclasses import dataclass

import pytest
from torch import nn

from medpretrain3d import configurable
from medpretrain3d.configurable import Configurable, from_config, to_config
from medpretrain3d.errors import UserError


class Inner(Configurable):
    def __init__(self, size=(1, 2, 3), name="a"):
        self.size, self.name = size, name


class Outer(Configurable, nn.Module):
    def __init__(self, inner, parts=(), gain=0.5):
        super().__init__()
        self.inner, self.parts, self.gain = inner, parts, gain


class Wider(Outer):
    def __init__(self, inner, width=2, **options):
        super().__init__(inner, **options)
        self.width = width


@dataclass(frozen=True)
class Range(Configurable):
    low: float = 0.0
    high: float = 1.0


@pytest.fixture(autouse=True)
def inside_the_package(monkeypatch):
    """The classes as if they were part of the package: a file may name no others."""
    for cls in (Inner, Outer, Wider, Range):
        monkeypatch.setattr(cls, "__module__", configurable.__name__)
        monkeypatch.setattr(configurable, cls.__name__, cls, raising=False)


def test_defaults_are_part_of_the_config():
    assert to_config(Inner(name="b")) == {
        "class_path": "medpretrain3d.configurable.Inner",
        "init_args": {"size": [1, 2, 3], "name": "b"},
    }


def test_options_handed_on_to_the_base_class_are_described_with_its_defaults():
    arguments = to_config(Wider(Inner(), gain=2.0))["init_args"]
    assert list(arguments) == ["inner", "width", "parts", "gain"]
    assert (arguments["width"], arguments["parts"], arguments["gain"]) == (2, [], 2.0)
    assert from_config(to_config(Wider(Inner(), gain=2.0))).gain == 2.0


def test_what_is_described_can_be_written_and_built_again():
    outer = Outer(Inner((4, 5, 6)), parts=[Inner(), Range(high=2.0)])
    text = json.dumps(to_config(outer))
    built = from_config(json.loads(text))
    assert isinstance(built, Outer)
    assert built.inner.size == (4, 5, 6)
    assert [type(part) for part in built.parts] == [Inner, Range]
    assert built.parts[1] == Range(0.0, 2.0)
    assert json.dumps(to_config(built)) == text


def test_the_arguments_are_those_of_the_call_even_when_the_object_changed():
    inner = Inner()
    inner.name = "changed"
    assert to_config(inner)["init_args"]["name"] == "a"


def test_a_wrong_call_fails_as_always():
    with pytest.raises(TypeError, match="unknown"):
        Inner(unknown=1)


def test_copies_are_described_alike():
    outer = Outer(Inner(name="b"))
    assert to_config(copy.deepcopy(outer)) == to_config(outer)


def test_pickles_are_described_alike(monkeypatch):
    inner = Inner(name="b")
    assert to_config(pickle.loads(pickle.dumps(inner))) == to_config(inner)


def test_what_is_not_plain_data_cannot_be_written():
    with pytest.raises(TypeError, match="object cannot be written"):
        to_config(Inner(name=object()))


@pytest.mark.parametrize(
    ("path", "arguments", "said"),
    [
        ("os.system", {}, "may only name classes of medpretrain3d"),
        ("medpretrain3d_evil.Inner", {}, "may only name classes of medpretrain3d"),
        ("medpretrain3d.nowhere.Inner", {}, "does not exist"),
        ("medpretrain3d.configurable.Nothing", {}, "does not exist"),
        ("medpretrain3d.configurable.from_config", {}, "not a class that can be built"),
        ("medpretrain3d.configurable.UserError", {}, "not a class that can be built"),
        ("medpretrain3d.configurable.Inner", {"colour": 1}, "written by another version"),
    ],
)
def test_a_file_cannot_name_just_anything(path, arguments, said):
    with pytest.raises(UserError, match=said):
        from_config({"class_path": path, "init_args": arguments})
