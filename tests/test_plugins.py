"""Classes of packages of others: known once a user has named the package, never because a file names it."""

from __future__ import annotations

import importlib
import json
import os
import sys

import pytest
import torch

from medpretrain3d import cli, plugins, registry
from medpretrain3d.backbones import Backbone, ResEnc, load_encoder, read_encoder, save_encoder
from medpretrain3d.backbones.checkpoints.completeness import check_described, check_rebuildable
from medpretrain3d.command_line.composition import recipe_layers
from medpretrain3d.configurable import from_config, plugins_in, to_config
from medpretrain3d.detection import FCOS, Detector
from medpretrain3d.errors import UserError
from medpretrain3d.inference import load_bundle, save_bundle
from medpretrain3d.plugins import VARIABLE, check_required, load_plugin, loaded_plugins, take_plugins
from medpretrain3d.registry import Registry, known_classes
from medpretrain3d.store.preprocessing import Preprocessing

NETWORK = """
import torch
from medpretrain3d.backbones import Backbone, Level
from medpretrain3d.configurable import Configurable

class Net(Backbone):
    citation = "arXiv:0000.00000"
    def __init__(self, width: int = 4, in_channels: int = 1) -> None:
        super().__init__()
        self.in_channels, self.levels = in_channels, (Level(width, (2, 2, 2)),)
        self.conv = torch.nn.Conv3d(in_channels, width, 2, stride=2)
    def forward(self, image):
        return [self.conv(image)]

class NoNetwork(Configurable):
    pass
"""


@pytest.fixture
def package(tmp_path, monkeypatch, request):
    """A function that writes a package of the test's own name and version; whatever it loads is forgotten later."""
    name = "plugin_" + request.node.name.partition("[")[0][-40:]
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setattr(plugins, "_looked_for", [])
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(init: str = "from . import net", version: str = "1.2", **modules: str) -> str:
        (tmp_path / name).mkdir(exist_ok=True)
        for module, text in {"__init__": init, "net": NETWORK, **modules}.items():
            (tmp_path / name / f"{module}.py").write_text(text, encoding="utf-8")
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n")
        (info / "top_level.txt").write_text(f"{name}\n")
        importlib.invalidate_caches()
        return name

    yield write
    for module in [one for one in sys.modules if one.partition(".")[0] == name]:
        del sys.modules[module]


def test_a_class_of_a_plugin_is_made_once_the_user_has_named_it(package):
    name = package()
    config = {"class_path": f"{name}.net.Net", "init_args": {"width": 6}}
    with pytest.raises(UserError, match=f"give --plugins {name}"):
        from_config(config)
    assert name not in sys.modules  # a file does not choose what code runs
    assert str(load_plugin(name)) == f"{name.replace('_', '-')} 1.2"
    assert from_config(config, Backbone).levels[0].channels == 6
    assert known_classes(Backbone)["Net"].__module__ == f"{name}.net"
    assert os.environ[VARIABLE] == name  # child processes load it, too
    assert plugins_in([config, to_config(ResEnc("XXS"))]) == [
        {"module": name, "distribution": name.replace("_", "-"), "version": "1.2"}
    ]


def test_a_plugin_need_not_be_named_where_it_is_installed_with_an_entry_point(package, tmp_path):
    name = package()
    next(tmp_path.glob("*.dist-info")).joinpath("entry_points.txt").write_text(
        f"[medpretrain3d.plugins]\nany_name = {name}\nbroken = no_such_package\n"
    )
    assert name in [plugin.module for plugin in loaded_plugins()]
    assert from_config({"class_path": f"{name}.net.Net", "init_args": {}}, Backbone)


def test_a_plugin_may_be_named_by_an_environment_variable(package, monkeypatch):
    name = package()
    monkeypatch.setenv(VARIABLE, f" {name} ,")
    assert from_config({"class_path": f"{name}.net.Net", "init_args": {}}, Backbone)


def test_a_class_has_to_derive_from_the_contract(package):
    name = package()
    load_plugin(name)
    with pytest.raises(UserError, match="is no Backbone"):
        from_config({"class_path": f"{name}.net.NoNetwork", "init_args": {}}, Backbone)
    with pytest.raises(UserError, match="does not define it"):
        from_config({"class_path": f"{name}.net.torch", "init_args": {}})


def test_a_module_that_a_plugin_does_not_import_is_not_imported_for_a_file(package):
    name = package(other="from .net import Net\nclass Other(Net):\n    pass\n")
    load_plugin(name)
    with pytest.raises(UserError, match="does not define it; import its module there"):
        from_config({"class_path": f"{name}.other.Other", "init_args": {}})
    assert f"{name}.other" not in sys.modules
    other = importlib.import_module(f"{name}.other").Other()  # as a recipe can name it
    with pytest.raises(UserError, match=r"Other: could not be read from the file that a run writes"):
        check_rebuildable(other)


@pytest.mark.parametrize(
    ("init", "said"),
    [
        ("x = 1", "adds nothing"),
        ("x = 1 / 0", r"cannot be imported \(ZeroDivisionError: division by zero, __init__.py line 1\)"),
        ("import not_there", r"cannot be imported \(ModuleNotFoundError: No module named 'not_there'"),
        ("x = (", r"cannot be imported \(SyntaxError"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_one_line(package, init, said, capsys):
    name = package(init)
    assert cli.main(["datasets", "--plugins", name]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    with pytest.raises(UserError, match=said):
        load_plugin(name)


@pytest.mark.parametrize("name", ["no_such_package", "a/b.py", "my-package", "medpretrain3d", "--config", ""])
def test_what_is_no_plugin_is_refused(package, name):
    with pytest.raises(UserError, match=r"--plugins|not found; install it"):
        take_plugins(["predict", f"--plugins={name}"])


def test_plugins_are_named_anywhere_in_a_command_line(package):
    name = package()
    for given in (["--plugins", name, "fit"], ["fit", f"--plugins={name}"], ["fit", "--plugins", f"{name},{name}"]):
        assert take_plugins(given) == ["fit"]
    assert take_plugins(["x", "--", "--plugins"]) == ["x", "--", "--plugins"]
    with pytest.raises(UserError, match="got nothing"):
        take_plugins(["fit", "--plugins"])


@pytest.mark.parametrize("named", ["[{name}]", "{name}"])
def test_what_a_recipe_names_is_loaded_for_whatever_composes_it(package, named, tmp_path):
    name = package()
    base, path = tmp_path / "base.yaml", tmp_path / "recipe.yaml"
    base.write_text(f"plugins: {named.format(name=name)}\nmodel: {{objective: {{class_path: MAE}}}}\n")
    path.write_text("base: base.yaml\ndata: {patch: [16, 16, 16], batch_size: 1}\ntrainer: {max_steps: 2}\n")
    assert len(recipe_layers(path, "pretrain")) == 2
    assert [plugin.module for plugin in loaded_plugins()] == [name]
    assert os.environ[VARIABLE] == name  # for the programs that are started


def test_plan_computes_what_a_recipe_of_a_plugin_needs(package, tmp_path, capsys):
    name = package()
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"plugins: [{name}]\n"
        "model: {objective: {class_path: MAE, init_args: {backbone: {class_path: Net}, mask_block: [8, 8, 8]}}}\n"
        "data: {patch: [16, 16, 16], batch_size: 1}\ntrainer: {max_steps: 2}\n"
    )
    assert cli.main(["plan", "--config", str(path)]) == 0
    assert "memory of each: " in capsys.readouterr().out


def test_an_encoder_file_names_the_plugin_that_it_needs(package, tmp_path):
    name = package()
    load_plugin(name)
    net = known_classes(Backbone)["Net"]()
    save_encoder(tmp_path / "encoder", net, {"plugins": "not from the card"})
    written = json.loads((tmp_path / "encoder" / "encoder.json").read_text())
    assert written["plugins"] == [{"module": name, "distribution": name.replace("_", "-"), "version": "1.2"}]
    encoder = read_encoder(tmp_path / "encoder")
    assert encoder.notes == ()
    assert load_encoder(net, encoder).matched == 2

    written["plugins"][0]["version"] = "0.9"
    (tmp_path / "encoder" / "encoder.json").write_text(json.dumps(written))
    (note,) = read_encoder(tmp_path / "encoder").notes
    assert note == f"made with the plugin {name.replace('_', '-')} 0.9, here is {name.replace('_', '-')} 1.2: " + (
        "what it computes may differ"
    )
    plugins._loaded.clear()
    os.environ[VARIABLE] = ""
    with pytest.raises(UserError, match=rf"needs the plugin {name.replace('_', '-')} 0\.9, .*give --plugins {name}$"):
        read_encoder(tmp_path / "encoder")


def test_an_encoder_of_this_package_names_none(tmp_path):
    save_encoder(tmp_path / "encoder", ResEnc("XXS"), {})
    assert "plugins" not in json.loads((tmp_path / "encoder" / "encoder.json").read_text())


@pytest.mark.parametrize(
    "record", [{"module": "a b"}, {"module": "\x1b[2J"}, {"module": 1}, {}, None, {"module": "x; rm -rf ~"}]
)
def test_what_a_file_names_is_not_repeated_where_it_is_no_name(record):
    with pytest.raises(UserError, match="names a plugin without a module"):
        check_required("a.json", [record])


def test_a_missing_plugin_is_told_apart_from_one_that_is_not_installed():
    record = {"module": "no_such_package", "distribution": "no-such\x1b", "version": "2"}
    with pytest.raises(
        UserError, match=r"the plugin no_such_package 2, which is not installed; .*, and give --plugins no_such"
    ):
        check_required("a.json", [record])
    with pytest.raises(UserError, match=r"the plugin json, which is not loaded; give"):
        check_required("a.json", [{"module": "json", "distribution": "json", "version": None}])


def test_two_parts_of_one_name_are_refused():
    parts: Registry[object] = Registry("format")
    parts.add("json", 1, "medpretrain3d.a")
    parts.add("json", 2, "medpretrain3d.a")  # the same module, imported again
    assert parts["json"] == 2
    with pytest.raises(UserError, match=r"format 'json': is in medpretrain3d\.a and in other"):
        parts.add("json", 3, "other")
    with pytest.raises(UserError, match="format 'csv': unknown; known are json"):
        parts["csv"]


class Hidden(ResEnc):
    """Has a parameter that no argument speaks of."""

    extra = False

    def __init__(self, preset: str = "XXS", in_channels: int = 1) -> None:
        super().__init__("XXS", in_channels)
        if Hidden.extra:
            self.extra_bias = torch.nn.Parameter(torch.zeros(1))


def test_what_its_arguments_do_not_make_again_is_refused_before_training(monkeypatch):
    monkeypatch.setattr(Hidden, "__module__", "medpretrain3d.backbones.resenc")
    monkeypatch.setattr("medpretrain3d.backbones.resenc.Hidden", Hidden, raising=False)
    check_rebuildable(Hidden())
    monkeypatch.setattr(Hidden, "extra", True)
    network = Hidden()
    monkeypatch.setattr(Hidden, "extra", False)
    with pytest.raises(UserError, match=r"make another network than the one here: 1 tensors missing \(extra_bias\)"):
        check_rebuildable(network)


def test_an_argument_that_is_no_plain_data_is_refused_before_training(package):
    name = package(
        other="from .net import Net\nclass Other(Net):\n    def __init__(self, x=None):\n        super().__init__()\n",
        init="from . import other",
    )
    load_plugin(name)
    other = known_classes(Backbone)["Other"]
    assert check_described(other()) == plugins_in(to_config(other()))
    with pytest.raises(UserError, match=r"Other: could not be read .* object cannot be written as plain data"):
        check_rebuildable(other(x=object()))


def test_a_bundle_names_its_plugin_and_notes_another_version(package, tmp_path):
    name = package(
        "from . import finder", finder="from medpretrain3d.detection import FCOS\nclass Finder(FCOS): pass\n"
    )
    load_plugin(name)
    detector = known_classes(Detector)["Finder"](ResEnc("XXS"), 1, fpn_channels=8)
    save_bundle(tmp_path / "bundle", detector, ["x"], Preprocessing((16, 16, 16)))
    assert load_bundle(tmp_path / "bundle").notes == ()
    path = tmp_path / "bundle" / "bundle.json"
    path.write_text(path.read_text().replace('"version": "1.2"', '"version": "1.3"'))
    (note,) = load_bundle(tmp_path / "bundle").notes
    assert "1.3, here is" in note
    assert "1.2: what it computes may differ" in note
    plugins._loaded.clear()
    os.environ[VARIABLE] = ""
    with pytest.raises(UserError, match=rf"bundle\.json: needs the plugin .* 1\.3, which is not loaded; .* {name}$"):
        load_bundle(tmp_path / "bundle")


def test_a_backbone_of_ours_is_read_out_of_a_bundle_without_the_plugin_of_its_detector(tmp_path):
    detector = FCOS(ResEnc("XXS"), 1, fpn_channels=8)
    save_bundle(tmp_path / "bundle", detector, ["x"], Preprocessing((16, 16, 16)))
    path = tmp_path / "bundle" / "bundle.json"
    document = json.loads(path.read_text())
    document["plugins"] = [{"module": "no_such_package", "distribution": "no-such-package", "version": "1"}]
    document["detector"]["class_path"] = "no_such_package.Net"
    path.write_text(json.dumps(document))
    assert read_encoder(tmp_path / "bundle").architecture["init_args"]["preset"] == "XXS"
    with pytest.raises(UserError, match="needs the plugin no-such-package 1, which is not installed"):
        load_bundle(tmp_path / "bundle")


def test_a_class_of_a_script_is_refused_before_training(monkeypatch):
    monkeypatch.setattr(Hidden, "__module__", "__main__")
    with pytest.raises(UserError, match="put it into a package"):
        check_rebuildable(Hidden())
